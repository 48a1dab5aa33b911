// The identity provider of the end-to-end tests: oidc-provider (OpenID certified), in memory, with
// three people who need not type a password.
//
//   node server.mjs [--cert FILE --key FILE] [--port N]
//
// Prints one line of JSON, {"issuer": "…"}, when it listens; TLS with --cert, 127.0.0.1 only.
// Everything a gateway sees is what the provider does for everybody: discovery, JWKS, tokens from
// the token endpoint. What is only for tests is below /test/ and never signs anything itself:
//
//   GET  /test/token?persona=agent-ci&kind=access&audience=portcullis&alg=RS256&ttl=300
//        kind=access  client credentials grant, a JWT access token (RFC 9068)
//        kind=id      authorization code grant with PKCE, played through, an ID token
//   POST /test/rotate-keys    new signing keys; the old ones are gone
//   POST /test/outage?on=1    discovery, JWKS and tokens answer 503 until on=0
//   GET  /test/requests       how often each path has been asked for
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const { values: options } = parseArgs({
  options: {
    cert: { type: "string" },
    key: { type: "string" },
    port: { type: "string", default: "0" },
    // Where `cargo xtask setup` put the packages; modules do not look at NODE_PATH.
    packages: { type: "string", default: path.join(import.meta.dirname, "../../target/tools/node") },
  },
});
const packages = createRequire(path.join(path.resolve(options.packages), "package.json"));
const { Provider } = await import(pathToFileURL(packages.resolve("oidc-provider")));

// -- Who there is ---------------------------------------------------------------------------------

const personas = {
  "agent-ci": { groups: ["agents"], email: "agent-ci@example.test" },
  "agent-two": { groups: ["agents"], email: "agent-two@example.test" },
  "dev-dana": { groups: ["developers"], email: "dev-dana@example.test" },
  "approver-amir": { groups: ["approvers"], email: "approver-amir@example.test" },
  "approver-bea": { groups: ["approvers"], email: "approver-bea@example.test" },
  // Claims that a gateway must not believe blindly.
  mallory: { groups: ["system:masters", "agents"], email: "mallory@example.test" },
};
const algorithms = ["RS256", "PS256", "ES256", "EdDSA"];
const clientSecret = "test-secret-of-no-value-whatsoever";
const pageAfterLogin = "http://127.0.0.1/callback";

const claimsOf = (name) => ({
  sub: name,
  name,
  preferred_username: name,
  email: personas[name].email,
  email_verified: true,
  groups: personas[name].groups,
});

// A persona is a client of its own for the client credentials grant, so that the token's subject
// is the persona.
const machineClients = Object.keys(personas).map((name) => ({
  client_id: name,
  client_secret: clientSecret,
  grant_types: ["client_credentials"],
  response_types: [],
  redirect_uris: [],
  token_endpoint_auth_method: "client_secret_post",
}));

// One public client per algorithm of ID tokens, for people: code and PKCE. A native application's
// redirect on loopback may have any port (RFC 8252), so command-line logins work too.
const loginClients = algorithms.map((alg) => ({
  client_id: alg === "RS256" ? "portcullis" : `portcullis-${alg.toLowerCase()}`,
  application_type: "native",
  grant_types: ["authorization_code", "refresh_token"],
  response_types: ["code"],
  redirect_uris: [pageAfterLogin, "http://localhost/callback"],
  token_endpoint_auth_method: "none",
  id_token_signed_response_alg: alg,
}));

// -- The provider -----------------------------------------------------------------------------------

function keys() {
  const pair = (kind, extra, alg) => {
    const { privateKey } = crypto.generateKeyPairSync(kind, extra);
    const kid = `${alg.toLowerCase()}-${crypto.randomBytes(4).toString("hex")}`;
    return { ...privateKey.export({ format: "jwk" }), alg, use: "sig", kid };
  };
  return {
    keys: [
      pair("rsa", { modulusLength: 2048 }, "RS256"),
      pair("rsa", { modulusLength: 2048 }, "PS256"),
      pair("ec", { namedCurve: "P-256" }, "ES256"),
      pair("ed25519", {}, "EdDSA"),
    ],
  };
}

// What /test/token wants of an access token travels in its resource indicator (RFC 8707), which
// the provider hands to us when it makes the token.
const resourceFor = ({ audience, alg, ttl }) =>
  `https://resource.test/?${new URLSearchParams({ audience, alg, ttl })}`;

function provider(issuer) {
  const server = new Provider(issuer, {
    clients: [...machineClients, ...loginClients],
    jwks: keys(),
    cookies: { keys: [crypto.randomBytes(16).toString("hex")] },
    enabledJWA: { idTokenSigningAlgValues: algorithms },
    scopes: ["openid", "offline_access", "profile", "email", "groups"],
    claims: {
      openid: ["sub"],
      profile: ["name", "preferred_username"],
      email: ["email", "email_verified"],
      groups: ["groups"],
    },
    // People see what is in a token by looking into it, not by asking /me.
    conformIdTokenClaims: false,
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => {
          const wanted = new URL(resource).searchParams;
          return {
            scope: "",
            audience: wanted.get("audience") ?? "portcullis",
            accessTokenTTL: Number(wanted.get("ttl") ?? 300),
            accessTokenFormat: "jwt",
            jwt: { sign: { alg: wanted.get("alg") ?? "RS256" } },
          };
        },
      },
    },
    extraTokenClaims: (_context, token) => {
      const name = token.accountId ?? token.clientId;
      return name in personas ? claimsOf(name) : undefined;
    },
    findAccount: (_context, name) =>
      name in personas ? { accountId: name, claims: () => claimsOf(name) } : undefined,
    interactions: { url: (_context, interaction) => `/test/login/${interaction.uid}` },
    ttl: {
      ClientCredentials: (_context, token) => token.resourceServer?.accessTokenTTL ?? 300,
      AccessToken: 300,
      IdToken: 300,
      Grant: 3600,
      Interaction: 300,
      Session: 3600,
    },
  });
  server.on("server_error", (_context, error) => console.error(error));
  return server;
}

// -- Only for tests -----------------------------------------------------------------------------------

// Logs in whoever the client's login_hint names, and agrees to everything it asks for.
async function login(state, request, response) {
  const server = state.provider;
  const { params, prompt } = await server.interactionDetails(request, response);
  const name = params.login_hint;
  if (!(name in personas)) {
    throw Object.assign(new Error(`login_hint names none of ${Object.keys(personas).join(", ")}`), { status: 400 });
  }
  const grant = new server.Grant({ accountId: name, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const result = { login: { accountId: name }, consent: { grantId: await grant.save() } };
  await server.interactionFinished(request, response, result, { mergeWithLastSubmission: prompt.name === "consent" });
}

// A token as a client would get it.
async function token(state, query) {
  const persona = query.get("persona") ?? "";
  const alg = query.get("alg") ?? "RS256";
  if (!(persona in personas) || !algorithms.includes(alg)) {
    throw Object.assign(
      new Error(`persona is one of ${Object.keys(personas).join(", ")}; alg one of ${algorithms.join(", ")}`),
      { status: 400 },
    );
  }
  if (query.get("kind") === "id") {
    return (await codeFlow(state, persona, loginClients[algorithms.indexOf(alg)].client_id)).id_token;
  }
  const resource = resourceFor({ audience: query.get("audience") ?? "portcullis", alg, ttl: query.get("ttl") ?? "300" });
  const answer = await post(`${state.issuer}/token`, {
    grant_type: "client_credentials",
    client_id: persona,
    client_secret: clientSecret,
    resource,
  });
  return answer.access_token;
}

// The authorization code grant with PKCE, as a browser and a native application play it together.
async function codeFlow(state, persona, client) {
  const verifier = crypto.randomBytes(32).toString("base64url");
  const challenge = crypto.createHash("sha256").update(verifier).digest("base64url");
  const start = new URL(`${state.issuer}/auth`);
  start.search = new URLSearchParams({
    client_id: client,
    response_type: "code",
    redirect_uri: pageAfterLogin,
    scope: "openid profile email groups",
    login_hint: persona,
    code_challenge: challenge,
    code_challenge_method: "S256",
    state: crypto.randomUUID(),
    nonce: crypto.randomUUID(),
  });
  const cookies = new Map();
  for (let url = start, hops = 0; hops < 10; hops++) {
    const answer = await fetch(url, {
      redirect: "manual",
      headers: { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join("; ") },
    });
    for (const cookie of answer.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(cookie);
      cookies.set(name, value);
    }
    const next = answer.headers.get("location");
    if (!next) throw new Error(`the login stopped at ${url} with ${answer.status}: ${await answer.text()}`);
    url = new URL(next, url);
    if (url.href.startsWith(pageAfterLogin)) {
      return post(`${state.issuer}/token`, {
        grant_type: "authorization_code",
        client_id: client,
        redirect_uri: pageAfterLogin,
        code: url.searchParams.get("code"),
        code_verifier: verifier,
      });
    }
  }
  throw new Error("the login goes round in circles");
}

async function post(url, form) {
  const answer = await fetch(url, { method: "POST", body: new URLSearchParams(form) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(`${url}: ${body.error}: ${body.error_description}`);
  return body;
}

// -- The server ---------------------------------------------------------------------------------------

const state = { issuer: "", handler: undefined, provider: undefined, outage: false, requests: {} };

function renew() {
  state.provider = provider(state.issuer);
  state.handler = state.provider.callback();
}

async function handle(request, response) {
  const url = new URL(request.url, state.issuer);
  const json = (status, body) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(`${JSON.stringify(body)}\n`);
  };
  if (!url.pathname.startsWith("/test/")) {
    state.requests[url.pathname] = (state.requests[url.pathname] ?? 0) + 1;
    if (state.outage) return json(503, { error: "temporarily_unavailable" });
    return state.handler(request, response);
  }
  switch (`${request.method} ${url.pathname}`) {
    case "GET /test/token":
      return json(200, { token: await token(state, url.searchParams) });
    case "POST /test/rotate-keys":
      renew();
      return json(200, {});
    case "POST /test/outage":
      state.outage = url.searchParams.get("on") === "1";
      return json(200, { outage: state.outage });
    case "GET /test/requests":
      return json(200, state.requests);
  }
  if (url.pathname.startsWith("/test/login/")) return login(state, request, response);
  return json(404, { error: "not_found" });
}

const listener = (request, response) =>
  handle(request, response).catch((error) => {
    response.writeHead(error.status ?? 500, { "content-type": "application/json" });
    response.end(`${JSON.stringify({ error: error.message })}\n`);
  });
const server = options.cert
  ? https.createServer({ cert: fs.readFileSync(options.cert), key: fs.readFileSync(options.key) }, listener)
  : http.createServer(listener);
server.listen(Number(options.port), "127.0.0.1", () => {
  const { port } = server.address();
  state.issuer = `${options.cert ? "https" : "http"}://127.0.0.1:${port}`;
  renew();
  console.log(JSON.stringify({ issuer: state.issuer }));
});

// The parent keeps our standard input open; when it is gone, so are we.
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
process.on("SIGTERM", () => process.exit(0));
