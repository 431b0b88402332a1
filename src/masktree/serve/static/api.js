/** Requests to the server. Nothing outside its own address is ever asked for. */

/** An answer of the server that says what was wrong. */
export class ApiError extends Error {
  /** @param {number} status HTTP status @param {string} message one line for people */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** No answer at all: the server was stopped or the connection is lost. */
export class ConnectionLost extends Error {
  constructor() {
    super("The server does not answer. Start masktree serve again; this page goes on by itself.");
  }
}

/**
 * @param {string} method
 * @param {string} path
 * @param {object | FormData} [body] an object is sent as JSON
 * @returns {Promise<Response>}
 */
async function send(method, path, body) {
  const headers = {};
  if (method !== "GET") headers["X-Masktree"] = "1";
  const isForm = body instanceof FormData;
  if (body !== undefined && !isForm) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined || isForm ? body : JSON.stringify(body) });
  } catch {
    throw new ConnectionLost();
  }
  if (!response.ok) throw new ApiError(response.status, await errorOf(response));
  return response;
}

async function errorOf(response) {
  try {
    return (await response.json()).error ?? response.statusText;
  } catch {
    return response.statusText || `HTTP status ${response.status}`;
  }
}

/** JSON of an answer, or null if it has no content. */
export async function requestJson(method, path, body) {
  const response = await send(method, path, body);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** A file and the headers that came with it. */
export async function requestBlob(method, path, body) {
  const response = await send(method, path, body);
  return { blob: await response.blob(), headers: response.headers };
}

/** Bytes of an answer and the headers that came with it. */
export async function requestBytes(path) {
  const response = await send("GET", path);
  return { bytes: await response.arrayBuffer(), headers: response.headers };
}

/** Numbers of 32 bits from base64 of gzip. @returns {Promise<Uint32Array>} */
export async function unpackNumbers(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint32Array(await new Response(unpacked).arrayBuffer());
}
