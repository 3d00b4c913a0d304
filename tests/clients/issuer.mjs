// An issuer that is not ours: its keys and signatures are made by Node's own crypto, and its JWK set
// is served over HTTP or HTTPS. The test writes one command per line, as JSON, and reads one answer
// per line; `signed` is a whole token, so that the test can also ask for ones that must be refused.
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import readline from "node:readline";

const HASH = (alg) => "sha" + alg.slice(2);
const CURVES = { ES256: "P-256", ES384: "P-384", ES512: "P-521" };
const keys = new Map();
let [mode, fetches] = ["ok", 0];

const generate = {
  HS: (alg) => ({ privateKey: crypto.generateKeySync("hmac", { length: Number(alg.slice(2)) }) }),
  RS: () => crypto.generateKeyPairSync("rsa", { modulusLength: 2048 }),
  PS: () => crypto.generateKeyPairSync("rsa", { modulusLength: 2048 }),
  ES: (alg) => crypto.generateKeyPairSync("ec", { namedCurve: CURVES[alg] }),
  Ed: () => crypto.generateKeyPairSync("ed25519"),
};

function sign(alg, key, text) {
  const { constants } = crypto;
  switch (alg.slice(0, 2)) {
    case "HS":
      return crypto.createHmac(HASH(alg), key).update(text).digest();
    case "RS":
      return crypto.sign(HASH(alg), text, key);
    case "PS": {
      const saltLength = constants.RSA_PSS_SALTLEN_DIGEST;
      return crypto.sign(HASH(alg), text, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength });
    }
    case "ES":
      return crypto.sign(HASH(alg), text, { key, dsaEncoding: "ieee-p1363" });
    default:
      return crypto.sign(null, text, key);
  }
}

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

function jwks() {
  const set = [...keys].filter(([, key]) => key.published);
  return {
    keys: set.map(([kid, key]) => ({
      ...(key.publicKey ?? key.privateKey).export({ format: "jwk" }),
      kid,
      ...(key.named ? { alg: key.alg } : {}),
      use: "sig",
    })),
  };
}

const act = {
  // Makes a key; `published` says whether the set has it, `named` whether with its `alg`.
  add({ kid, alg, published = true, named = true }) {
    keys.set(kid, { ...generate[alg.slice(0, 2)](alg), alg, published, named });
    return {};
  },
  publish({ kid, published }) {
    keys.get(kid).published = published;
    return {};
  },
  // A token; `header` may set anything, `as` signs with the key of another kid.
  sign({ kid, claims, header = {}, as = kid }) {
    const key = keys.get(as);
    const head = { alg: key.alg, typ: "JWT", kid, ...header };
    const text = `${part(head)}.${part(claims)}`;
    const signature = sign(key.alg, key.privateKey, Buffer.from(text));
    return { signed: `${text}.${signature.toString("base64url")}` };
  },
  jwks: () => ({ jwks: jwks() }),
  mode({ to }) {
    mode = to;
    return {};
  },
  fetches: () => ({ fetches }),
};

function answer(request, response) {
  fetches += 1;
  if (mode === "fails") {
    response.writeHead(500).end();
  } else if (mode === "redirects") {
    response.writeHead(302, { location: "/elsewhere" }).end();
  } else if (mode !== "stalls") {
    response.writeHead(200, { "content-type": "application/jwk-set+json" });
    response.end(JSON.stringify(jwks()));
  }
}

const [port, cert, key] = process.argv.slice(2);
const server = cert
  ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, answer)
  : http.createServer(answer);
server.listen(Number(port), "127.0.0.1", () => {
  console.log(JSON.stringify({ port: server.address().port }));
});
readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { act: name, ...given } = JSON.parse(line);
  console.log(JSON.stringify(act[name](given)));
});
