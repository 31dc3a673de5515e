// The token, read from the secret at most once in five minutes, or when it was refused.

import { GetSecretValueCommand, SecretsManagerClient } from "@aws-sdk/client-secrets-manager";

const MAX_AGE = 5 * 60 * 1000;

const secrets = new SecretsManagerClient({
  requestHandler: { connectionTimeout: 2_000, requestTimeout: 5_000 },
});

// A promise, so that all who ask at once share one read.
let reading;
let readAt = 0;

export async function token({ rejected } = {}) {
  const held = reading;
  if (!held || Date.now() - readAt >= MAX_AGE || (rejected && (await held) === rejected)) {
    // Unless somebody else has begun meanwhile.
    if (reading === held) read();
  }
  const raw = await reading;
  if (raw === rejected) {
    throw new Error("the API refuses the token, and the secret holds no other: see the stack's alerts");
  }
  return raw;
}

function read() {
  readAt = Date.now();
  reading = secrets
    .send(new GetSecretValueCommand({ SecretId: process.env.SECRET_ID }))
    .then(({ SecretString }) => parse(SecretString));
  // A failed read is not kept; whoever awaits it gets its error.
  const failed = reading;
  failed.catch(() => {
    if (reading === failed) reading = undefined;
  });
}

// The secret is the bare token, or a JSON object with the token under "token".
function parse(text = "") {
  let raw = text.trim();
  if (raw.startsWith("{")) {
    try {
      raw = JSON.parse(raw).token;
    } catch {
      // The parser's own message would quote the secret.
      raw = undefined;
    }
  }
  if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(raw)) throw new Error("the secret holds no token");
  return raw;
}
