// Returns the titles of the newest chats, with the token that qwen-token-refresh keeps.

import { token } from "./token.mjs";

export const handler = async () => (await get("/api/v2/chats/?page=1")).map(({ title }) => title);

async function get(path) {
  const raw = await token();
  let answer = await send(path, raw);
  // The token was replaced, and the old one is dead: once more, with the new one.
  if (refuses(answer)) answer = await send(path, await token({ rejected: raw }));
  if (answer.document?.success !== true) {
    const said = answer.document?.data?.code ?? "no answer of the API's own";
    throw new Error(`${path}: ${said} (status ${answer.status})`);
  }
  return answer.document.data;
}

async function send(path, raw) {
  const response = await fetch(process.env.API_BASE_URL + path, {
    headers: { authorization: `Bearer ${raw}` },
    // The token goes to no other address.
    redirect: "manual",
    signal: AbortSignal.timeout(20_000),
  });
  // A firewall's page is no answer of the API, whatever its status.
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  return { status: response.status, document: isJson ? await response.json() : undefined };
}

const refuses = ({ status, document }) =>
  document !== undefined && (status === 401 || document.data?.code === "unauthorized");
