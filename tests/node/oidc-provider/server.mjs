// The certified oidc-provider, strict: PKCE required, exact redirect URIs, `iss` in its answers.
// Prints its issuer once it listens. Environment: REDIRECT_URI, CLIENT_ID, CLIENT_SECRET, ID_TOKEN_ALG.
import { createServer } from "node:http";
import { generateKeyPairSync } from "node:crypto";

import Provider from "oidc-provider";

const { REDIRECT_URI, CLIENT_ID, CLIENT_SECRET, ID_TOKEN_ALG = "RS256" } = process.env;

const signing = { RS256: ["rsa", { modulusLength: 2048 }], PS256: ["rsa", { modulusLength: 2048 }],
  ES256: ["ec", { namedCurve: "P-256" }], EdDSA: ["ed25519", {}] }[ID_TOKEN_ALG];
const key = { ...generateKeyPairSync(...signing).privateKey.export({ format: "jwk" }), use: "sig", kid: "signing-key" };

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: CLIENT_ID, client_secret: CLIENT_SECRET, redirect_uris: [REDIRECT_URI],
      response_types: ["code"], grant_types: ["authorization_code"], id_token_signed_response_alg: ID_TOKEN_ALG }],
    jwks: { keys: [key] },
    enabledJWA: { idTokenSigningAlgValues: [ID_TOKEN_ALG] },
    pkce: { required: () => true },
    cookies: { keys: ["only-for-tests"] },
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
    findAccount: (ctx, sub) => ({
      accountId: sub,
      claims: () => ({ sub, email: `${sub}@example.com`, email_verified: true, name: sub }),
    }),
  });
  server.on("request", provider.callback());
  console.log(`issuer ${issuer}`);
});
