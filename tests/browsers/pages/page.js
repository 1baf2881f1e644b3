// What the tests ask the page to do. Each result is also written on the page, so that a screenshot shows it.
"use strict";

function row(...cells) {
	const line = document.getElementById("log").insertRow();
	for (const cell of cells)
		line.insertCell().textContent = cell;
}

async function digest(bytes) {
	const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
	return Array.from(sum, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// All at the same time: a list of sizes and SHA-256 sums, or of what went wrong.
function fetchAll(urls) {
	return Promise.all(urls.map(async (url) => {
		try {
			const response = await fetch(url, { cache: "no-store" });
			const body = await response.arrayBuffer();
			const sum = await digest(body);
			row(url, response.status, `${body.byteLength} bytes`, sum.slice(0, 16));
			return { status: response.status, size: body.byteLength, sum };
		} catch (error) {
			row(url, String(error));
			return { error: String(error) };
		}
	}));
}

// Sends `size` bytes; what the server says their sum is, and what it is.
async function upload(url, size) {
	const bytes = new Uint8Array(size);
	for (let i = 0; i < size; i++)
		bytes[i] = (i * 31 + (i >> 8)) & 255;
	const response = await fetch(url, { method: "POST", body: bytes });
	const result = { there: await response.text(), here: await digest(bytes) };
	row(url, `${size} bytes up`, result.there.slice(0, 16));
	return result;
}

// Texts and binary messages of these sizes there and back over one WebSocket, then a close with a code of ours.
function echo(url, sizes) {
	return new Promise((resolve) => {
		const socket = new WebSocket(url);
		const result = { opened: false, texts: 0, sizes: [], same: true, code: 0, clean: false };
		let sent = null;
		const queue = sizes.slice();
		function next() {
			if (queue.length === 0) {
				socket.close(4321, "done");
				return;
			}
			sent = new Uint8Array(queue.shift());
			for (let i = 0; i < sent.length; i++)
				sent[i] = (i * 7 + (i >> 10)) & 255;
			socket.send(`before ${sent.length} bytes`);
			socket.send(sent);
		}
		socket.binaryType = "arraybuffer";
		socket.onopen = () => { result.opened = true; next(); };
		socket.onmessage = (event) => {
			if (typeof event.data === "string") {
				result.texts += event.data === `before ${sent.length} bytes`;
				return;
			}
			const back = new Uint8Array(event.data);
			result.sizes.push(back.length);
			result.same = result.same && back.length === sent.length && back.every((byte, i) => byte === sent[i]);
			row(url, `${back.length} bytes there and back`);
			next();
		};
		socket.onclose = (event) => {
			result.code = event.code;
			result.clean = event.wasClean;
			row(url, `closed: ${event.code}, clean: ${event.wasClean}`);
			resolve(result);
		};
	});
}

// The widths of pictures from these URLs, once all are there or have failed.
function pictures(urls) {
	return Promise.all(urls.map((url) => new Promise((resolve) => {
		const picture = new Image(16, 16);
		picture.onload = () => resolve(picture.naturalWidth);
		picture.onerror = () => resolve(0);
		picture.src = url;
		document.getElementById("pictures").append(picture);
	})));
}

// What the server answers to `size` bytes, from a page without TLS: it has no digest of its own.
async function post(url, size) {
	const bytes = new Uint8Array(size);
	for (let i = 0; i < size; i++)
		bytes[i] = (i * 31 + (i >> 8)) & 255;
	const response = await fetch(url, { method: "POST", body: bytes });
	const text = await response.text();
	row(url, `${size} bytes up`, text.slice(0, 16));
	return text;
}

// Begins to fetch; what has become of it is asked for later.
function begin(url) {
	window.begun = fetchAll([url]);
	return true;
}

addEventListener("DOMContentLoaded", () => {
	document.getElementById("script").textContent = "the script runs";
});
