from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
        ('hostapp', '0002_employee_person'),
    ]

    operations = [
        migrations.CreateModel(
            name='Team',
            fields=[],
            options={'proxy': True, 'indexes': [], 'constraints': []},
            bases=('auth.group',),
        ),
    ]
