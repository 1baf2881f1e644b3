// Chromium under playwright-core, for chromium.py: a command as a line of JSON on stdin, its answer on stdout.
// The proxy's challenges are answered as a password manager would: up to `answers` times for each request, then given up.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { join } from "node:path";

const settings = JSON.parse(process.argv[2]);
const { chromium } = createRequire(join(settings.modules, "package.json"))("playwright-core");
const challenges = [];
const tried = new Map();

const context = await chromium.launchPersistentContext(settings.profile, {
	executablePath: settings.executable,
	headless: true,
	args: settings.arguments,
	timeout: 60000,
	viewport: { width: 1000, height: 700 },
});
const page = context.pages()[0] ?? await context.newPage();
const session = await context.newCDPSession(page);

session.on("Fetch.requestPaused", ({ requestId }) => {
	session.send("Fetch.continueRequest", { requestId }).catch(() => {});
});
session.on("Fetch.authRequired", ({ requestId, request, authChallenge }) => {
	const count = (tried.get(requestId) ?? 0) + 1;
	tried.set(requestId, count);
	challenges.push({ url: request.url, ...authChallenge });
	const answer = authChallenge.source === "Proxy" && count <= settings.answers
		? { response: "ProvideCredentials", username: settings.user, password: settings.password }
		: { response: "CancelAuth" };
	session.send("Fetch.continueWithAuth", { requestId, authChallengeResponse: answer }).catch(() => {});
});
await session.send("Fetch.enable", { handleAuthRequests: true });

const commands = {
	// The page of an error comes late: it would push out what is asked for next.
	async open({ url }) {
		try {
			await page.goto(url, { timeout: 60000 });
			return null;
		} catch (error) {
			await page.waitForURL("chrome-error://**", { timeout: 10000 }).catch(() => {});
			return error.message;
		}
	},
	run: ({ expression }) => page.evaluate(expression),
	screenshot: async ({ path }) => { await page.screenshot({ path }); },
	challenges: () => challenges,
	version: () => context.browser()?.version() ?? session.send("Browser.getVersion").then((v) => v.product),
};

function answer(message) {
	process.stdout.write(JSON.stringify(message) + "\n");
}

answer({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
	const command = JSON.parse(line);
	if (command.do === "stop")
		break;
	try {
		answer({ value: await commands[command.do](command) ?? null });
	} catch (error) {
		answer({ error: String(error) });
	}
}
await context.close();
