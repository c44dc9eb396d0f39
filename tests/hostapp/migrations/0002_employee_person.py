import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ('hostapp', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Employee',
            fields=[
                ('user_ptr', models.OneToOneField(auto_created=True, on_delete=django.db.models.deletion.CASCADE, parent_link=True, primary_key=True, serialize=False, to=settings.AUTH_USER_MODEL)),
                ('badge', models.CharField(max_length=20)),
            ],
            bases=(settings.AUTH_USER_MODEL,),
        ),
        migrations.CreateModel(
            name='Person',
            fields=[],
            options={'proxy': True, 'indexes': [], 'constraints': []},
            bases=(settings.AUTH_USER_MODEL,),
        ),
    ]
