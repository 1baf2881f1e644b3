/* A client's connection from its first byte to the last record, TLS left out: HTTP, requests, policy, records and relay
 * are real, and everything around them follows a script (stand_ins.h, far_end.h): bytes of both sides, ends, faults and
 * blocked writes, verdicts early, late and never, time, memory that runs out, a reload, a drain.
 *
 * However it goes: every request has one answer and one last record, which say the same; no 200 before the record, no
 * byte of the client further before the 200; what is carried is what was sent; little waits; no password is written
 * anywhere; and in the end nothing is left. */
#include "adit/tunnel/tunnel.h"

#include "adit/http/h1.h"
#include "adit/log/stats.h"
#include "fuzz/answers.h"
#include "fuzz/stand_ins.h"
#include "loop/loop_priv.h"

/* scripts/fuzz compiles one file */
#include "component/mem_stream.c"

enum { SITES = 3, RELAY_BYTES = 512, SCRIPT_MAX = 1500 };

/* Configurations that a reload changes between. */
static struct conf *confs[SITES];
static struct policy *policies[SITES];

static struct tunnel_env env;
static struct client client;
static struct h1 *h1;
static bool client_closed;
static size_t next_head; /* where the next request's head begins in what the client sent */
static long long reasons_before;

/* --- the site --- */

static void load_site(size_t i, const char *rules, const char *on_failure, const char *lifetime)
{
	const struct conf_option options[] = {
		{ "http.request_line", "256" }, { "http.head", "1KiB" }, { "http.fields", "8" }, { "policy.rules", rules },
		{ "audit.on_failure", on_failure }, { "deadlines.lifetime", lifetime }, { "auth.realm", i == 1 ? "b x" : "a" },
	};
	struct conf_errors errors = { 0 };
	struct addr own;

	must(addr_parse(&own, slice_of(OWN)), "an address");
	confs[i] = conf_load(NULL, options, sizeof(options) / sizeof(options[0]), &errors);
	if (!confs[i])
		conf_errors_print(&errors, stderr);
	must(confs[i] != NULL, "a configuration");
	policies[i] = policy_new(confs[i], &own, 1, &own, 1);
	must(policies[i] != NULL, "a policy");
}

static void init(void)
{
	static char buffer[RELAY_BYTES];

	if (world.loop)
		return;
	world.loop = loop_new_manual();
	must(world.loop != NULL, "out of memory");
	log_set_level(LOG_LEVEL_DEBUG);
	secrets_init();
	spare_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	load_site(0, "[{name: no, action: deny, to: [denied.test], ports: [any]}, {name: web, action: allow, to: [any], ports: [any]}]",
	    "deny", "off");
	load_site(1, "[{name: few, action: allow, users: [alice], to: [93.184.216.34, 93.184.216.36], ports: [443]}]", "deny", "off");
	load_site(2, "[{name: all, action: allow, to: [any], ports: [any]}]", "allow", "1h");
	env = (struct tunnel_env){ .loop = world.loop, .buffer = buffer, .buffer_bytes = sizeof(buffer) };
	tunnels_init(&env);
}

static void reload(unsigned digit)
{
	size_t i = digit % SITES;

	conf_unref(env.conf);
	policy_unref(env.policy);
	env.conf = conf_ref(confs[i]);
	env.policy = policy_ref(policies[i]);
	world.lax_records = world.lax_records || env.conf->audit.on_failure_allow;
	world.gone_users = digit >= 12;
	tunnels_review(&env);
}

/* --- requests, on their way to the real handler --- */

/* The empty line, as RFC 9112 has it; a CRLF before the request line is not looked at. */
static size_t head_end(void)
{
	const char *p = world.client.sent + next_head;
	size_t n = world.client.sent_n - next_head, skipped = n >= 2 && memcmp(p, "\r\n", 2) == 0 ? 2 : 0;
	const char *end = memmem(p + skipped, n - skipped, "\r\n\r\n", 4);

	must(end != NULL, "a request without an end");
	return (size_t)(end + 4 - world.client.sent);
}

static void *begin(void *ctx, struct request *r)
{
	struct access_log *a = &world.access[world.accesses];
	void *object;

	must(world.accesses < ACCESSES_MAX && !client_closed, "too many requests");
	if (world.accesses > 0) {
		const struct access_log *last = &world.access[world.accesses - 1];

		must(last->fault == REASON_OK && !last->opened, "a request behind the last one");
		must(last->method != HEAD_CONNECT || !client.close_after_refusal, "a request behind a refused CONNECT"); /* RFC 9931 */
	}
	world.accesses++;
	*a = (struct access_log){ .method = r->method, .form = r->form, .fault = r->fault, .port = r->authority.port };
	if (r->fault == REASON_OK) {
		a->end = next_head = head_end();
		must(far_taken(&world.client) >= next_head, "a head that was not read");
		must(memmem(world.client.sent, next_head, r->target.p, r->target.n) != NULL, "another target than was sent");
	}
	object = tunnel_handler.begin(ctx, r);
	a->knows_nothing = !object;
	return object;
}

static void gone(void *object, enum reason reason)
{
	tunnel_handler.gone(object, reason);
}

static bool is_local(const struct access_log *a)
{
	return a->fault == REASON_OK && (a->form == HEAD_FORM_ORIGIN || a->form == HEAD_FORM_ASTERISK);
}

static void on_login(void *ctx)
{
	(void)ctx;
	must(the_access()->known, "a login that did not succeed");
	client.logged_in = true;
}

static void on_client_closed(void *ctx)
{
	(void)ctx;
	client_closed = true;
}

/* --- what must hold at any time --- */

static void check_tunnel(const struct access_log *a)
{
	const struct mem_stream *t = world.target.m;
	size_t left = t->out_n + t->queue_n;

	must(left <= world.client.sent_n - a->end, "more has gone to the target than the client sent");
	must(memcmp(t->out, world.client.sent + a->end, t->out_n) == 0, "other bytes to the target");
	must(t->queued_most <= RELAY_BYTES && world.client.m->queued_most <= RESPONSE_MAX, "more waits than may");
	if (t->fin)
		must(world.client.ended && t->out_n == world.client.sent_n - a->end, "a FIN before the client's last byte");
}

static void check(void)
{
	const struct access_log *a = world.accesses > 0 ? the_access() : NULL;

	must(world.client.m->queued_most <= RESPONSE_MAX, "more waits for the client than one answer");
	if (a && a->opened) {
		check_tunnel(a);
	} else if (!client_closed) {
		must(far_taken(&world.client) - next_head <= env.conf->http.head_bytes, "more was read than a head may have");
		must(!world.target.m, "a target without a tunnel");
	}
	must_be_clean(world.client.m->out, world.target.m ? 0 : world.client.m->out_n, "a password in an answer");
}

/* After a reload and a turn nobody is where he may not be. */
static void check_review(void)
{
	const struct access_log *a = world.accesses > 0 ? the_access() : NULL;
	char text[ADDR_TEXT_SIZE];

	if (!a || !a->opened || !world.target.m || world.target.m->closed)
		return;
	must(!world.gone_users, "a user who is gone has a tunnel");
	if (env.policy == policies[1])
		must(a->port == 443 && strncmp(addr_host_text(&world.dialled, text), "93.184.216.", 11) == 0,
		    "a tunnel that the policy refuses");
}

/* --- what must hold in the end --- */

static bool answer_due(const struct access_log *a)
{
	return is_local(a) || a->knows_nothing || a->status > 0;
}

static int status_due(const struct access_log *a)
{
	if (a->knows_nothing)
		return 503;
	return a->lasts > 0 ? a->status : 0; /* 0: a page of our own, any */
}

static void check_access(const struct access_log *a)
{
	if (a->knows_nothing || (is_local(a) && a->lasts == 0)) {
		must(a->lasts == 0 && !a->open && !a->opened, "records of what is no access");
		return;
	}
	must(a->lasts == 1, "no last record");
	must(a->open || !a->opened, "a tunnel without its record");
	must(!a->opened || a->known, "a tunnel of a stranger");
}

static void check_details(const struct access_log *a, const struct answer *answer)
{
	if (a->lasts == 1 && answer->status >= 400)
		must(slice_eq(answer->details, slice_of(reason_name(a->reason))), "record and answer differ");
}

/* Bytes of the target behind the 200. */
static void check_download(const char *p, size_t n)
{
	const struct mem_stream *m = world.client.m;

	if (!world.target.m) {
		must(n == 0, "bytes behind a 200 without a target");
		return;
	}
	must(n <= world.target.sent_n && memcmp(p, world.target.sent, n) == 0, "other bytes to the client");
	if (m->fin && m->how == STREAM_CLOSE_FLUSH)
		must(world.target.ended && n == world.target.sent_n, "a proper end before the target's last byte");
	if (the_access()->reason == REASON_OK)
		must(n == world.target.sent_n && world.target.m->out_n == world.client.sent_n - the_access()->end, "ok, but bytes are lost");
}

/* All that the client was sent, against the requests in their order. */
static void check_answers(void)
{
	const struct mem_stream *m = world.client.m;
	const char *p = m->out;
	size_t n = m->out_n;
	bool whole = !world.client.broken && m->how != STREAM_CLOSE_ABORT, closes = false;

	for (size_t i = 0; i < world.accesses; i++) {
		const struct access_log *a = &world.access[i];
		struct answer answer;

		if (!answer_read(p, n, &answer)) {
			must(!whole || !answer_due(a), "an answer is missing");
			must(!whole || n == 0, "half an answer");
			return;
		}
		must(!closes, "an answer behind the last one");
		if (a->opened && answer.status == 200) {
			must(!answer.has_length && answer.n == 39 && i + 1 == world.accesses, "a tunnel's 200");
			check_download(p + answer.n, n - answer.n);
			return;
		}
		must(answer_due(a), "an answer to a request that ended without");
		must(status_due(a) == 0 || answer.status == status_due(a), "another status than on record");
		must(status_due(a) != 0 || answer.status == 200 || answer.status == 404 || answer.status == 503, "a page's status");
		must(answer.has_length, "no length");
		check_details(a, &answer);
		closes = answer.close;
		if (a->method == HEAD_HEAD)
			answer.length = 0;
		if (n < answer.n + answer.length) {
			must(!whole, "half a body");
			return;
		}
		p += answer.n + answer.length;
		n -= answer.n + answer.length;
	}
	must(n == 0, "an answer to nothing");
}

static void check_reasons(void)
{
	long long now = 0, lasts = 0;

	for (int r = 0; r < REASON_COUNT; r++)
		now += stats_reason_get((enum reason)r);
	for (size_t i = 0; i < world.accesses; i++)
		lasts += world.access[i].lasts + world.access[i].knows_nothing;
	/* one more for a connection that ends outside of a request */
	must(now - reasons_before == lasts || now - reasons_before == lasts + 1, "reasons are counted more or less than once");
	reasons_before = now;
}

static void check_idle(void)
{
	must(!world.job && !world.query && !world.dialling, "something is still asked");
	must_be_closed();
	must(stats_get(STAT_REQUESTS) == 0 && stats_get(STAT_TUNNELS) == 0, "gauges");
	must(TAILQ_EMPTY(&env.relaying), "a tunnel is still listed");
	must(loop_held(world.loop) == 0, "the loop is held");
	must(TAILQ_EMPTY(&world.loop->manual_deadlines), "a deadline is left");
	must(TAILQ_EMPTY(&world.loop->tasks) && STAILQ_EMPTY(&world.loop->graves) && STAILQ_EMPTY(&world.loop->letters),
	    "something is left in the loop");
	for (int i = 0; i < SITES; i++)
		must(confs[i]->refs == (env.conf == confs[i] ? 3 : 2), "references to a configuration");
}

/* --- the script --- */

static void send_text(const char *text, size_t split)
{
	size_t n = strlen(text);

	for (size_t at = 0; at < n; at += split) {
		far_send(&world.client, text + at, n - at < split ? n - at : split);
		if (split < n)
			loop_turn(world.loop);
	}
}

static void send_raw(struct script *s, struct far_end *f)
{
	const uint8_t *p;
	size_t n = script_take(s, script_byte(s), &p);

	n = n < sizeof(world.raw) - world.raw_n ? n : sizeof(world.raw) - world.raw_n;
	memcpy(world.raw + world.raw_n, p, n);
	world.raw_n += n;
	far_send(f, p, n);
}

static void put_credentials(char *to, size_t size, unsigned digit)
{
	static const char *const logins[] = {
		"alice:" RIGHT, "bobby:" RIGHT, "alice:" WRONG, "carol:" RIGHT, "alice:", "alice:" RIGHT RIGHT RIGHT RIGHT,
	};
	char base64[128];
	const char *login;

	to[0] = '\0';
	if (digit == 0)
		return;
	if ((digit & 7) == 7) {
		snprintf(to, size, "Proxy-Authorization: Bearer " RIGHT "\r\n");
		return;
	}
	login = logins[digit == 8 ? 0 : (digit & 7) - 1];
	EVP_EncodeBlock((unsigned char *)base64, (const unsigned char *)login, (int)strlen(login));
	snprintf(to, size, "%sProxy-Authorization: %s %s\r\n", digit == 8 ? "Proxy-Authorization: Basic x\r\n" : "",
	    digit & 8 ? "basic" : "Basic", base64);
}

/* Three digits: where to, as whom, and how it is put. */
static void send_head(struct script *s)
{
	static const char *const hosts[] = { "a.test", "b.test", "inside.test", "mixed.test", "many.test", "own.test", "nobody.test",
					     "denied.test", PUBLIC4, "127.0.0.1", "9.9.9.9", "A.Test.", "93.184.216.36", "[2606:4700::1111]",
					     "alice:" RIGHT "@a.test", "a_b.test" };
	static const size_t splits[] = { 4096, 1, 7, 50 };
	char login[256], text[768];
	const char *host = hosts[script_digit(s)];
	unsigned form;

	put_credentials(login, sizeof(login), script_digit(s));
	form = script_digit(s);
	switch (form >> 2) {
	case 0:
		snprintf(text, sizeof(text), "CONNECT %s:443 HTTP/1.1\r\nHost: x\r\n%s\r\n", host, login);
		break;
	case 1:
		snprintf(text, sizeof(text), "CONNECT %s:8443 HTTP/1.%s\r\nHost: x\r\n%s%s\r\n", host, form & 1 ? "0" : "1", login,
		    form & 2 ? "Connection: close\r\n" : "");
		break;
	case 2:
		snprintf(text, sizeof(text), "%s http://%s/ HTTP/1.1\r\nHost: x\r\n%s%s\r\n", form & 1 ? "GET" : "HEAD", host, login,
		    form & 2 ? "Content-Length: 5\r\n" : "");
		break;
	default:
		snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", form & 2 ? "GET" : "HEAD", form & 1 ? "/healthz" : "/");
		break;
	}
	send_text(text, splits[form & 3]);
}

static unsigned ms_of(unsigned digit)
{
	static const unsigned times[] = { 1, 250, 1000, 2000, 4000, 5000, 10000, 15000, 30000, 60000, 300000, 600000, 1800000, 3600000,
					  100, 999 };

	return times[digit & 15];
}

static void set_service(unsigned which, unsigned how)
{
	enum service answer = (enum service)(how & 3);

	world.refusal = how >> 2;
	switch (which % 5) {
	case 0:
		world.auth = answer;
		return;
	case 1:
		world.dns = answer;
		return;
	case 2:
		world.dial = answer;
		return;
	case 3:
		world.audit = answer;
		return;
	default:
		world.stream = answer;
		return;
	}
}

static void abort_connection(unsigned digit)
{
	if (!client_closed)
		h1_abort(h1, digit & 1 ? REASON_REVOKED : REASON_SHUTDOWN);
}

/* A small letter; a capital does the same without a turn of the loop behind it. */
static void step(struct script *s)
{
	unsigned letter = script_byte(s);

	switch (letter & 0x1f) {
	case 'a' & 0x1f: tell_auth(script_digit(s)); break;
	case 'b' & 0x1f: far_break(&world.client, far_fault_of(script_digit(s))); break;
	case 'c' & 0x1f: far_send_pattern(&world.client, far_size_of(script_digit(s)), 1); break;
	case 'd' & 0x1f: tell_dns(script_digit(s)); break;
	case 'e' & 0x1f: far_finish(&world.client, script_digit(s) & 1); break;
	case 'f' & 0x1f: far_fail(&world.client, far_fault_of(script_digit(s))); break;
	case 'g' & 0x1f: far_fail(&world.target, far_fault_of(script_digit(s))); break;
	case 'h' & 0x1f: send_head(s); break;
	case 'i' & 0x1f: send_raw(s, &world.client); break;
	case 'j' & 0x1f: send_raw(s, &world.target); break;
	case 'k' & 0x1f: tell_dial(script_digit(s)); break;
	case 'l' & 0x1f: far_window(&world.client, script_digit(s)); break;
	case 'm' & 0x1f: set_service(script_digit(s), script_digit(s)); break;
	case 'n' & 0x1f: mem_fault_set(1 + script_digit(s), false); break;
	case 'o' & 0x1f: tell_audit(script_digit(s)); break;
	case 'p' & 0x1f: reload(script_digit(s)); break;
	case 'q' & 0x1f:
		env.draining = true;
		if (!client_closed)
			h1_drain(h1);
		break;
	case 'r' & 0x1f: far_drain(&world.client, script_digit(s)); break;
	case 's' & 0x1f: far_drain(&world.target, script_digit(s)); break;
	case 't' & 0x1f: loop_advance(world.loop, ms_of(script_digit(s))); break;
	case 'u' & 0x1f: far_finish(&world.target, false); break;
	case 'v' & 0x1f: far_break(&world.target, far_fault_of(script_digit(s))); break;
	case 'w' & 0x1f: far_window(&world.target, script_digit(s)); break;
	case 'x' & 0x1f: abort_connection(script_digit(s)); break;
	case 'y' & 0x1f: far_send_pattern(&world.target, far_size_of(script_digit(s)), 2); break;
	case 'z' & 0x1f: far_send_tls_record(&world.target, far_size_of(script_digit(s))); break;
	default: break;
	}
	if (letter & 0x20) {
		loop_turn(world.loop);
		check_review();
	}
}

/* What is asked gets no answer any more, and what is sent is taken: each wait has its deadline, so that it ends. */
static void run_out(void)
{
	for (int i = 0; i < 6 && !client_closed; i++) {
		far_window(&world.client, 0);
		far_window(&world.target, 0);
		far_drain(&world.client, 0);
		far_drain(&world.target, 0);
		loop_turn(world.loop);
		loop_advance(world.loop, ms_of(13));
	}
	far_drain(&world.client, 0);
	loop_turn(world.loop);
	must(client_closed, "a connection that does not end by itself");
}

static void start(unsigned services, unsigned flags)
{
	for (int i = 0; i < 4; i++)
		set_service((unsigned)i, services >> i & 1 ? SERVE_WHEN_TOLD : i < 2 ? SERVE_AT_ONCE : SERVE_SOON);
	world.audit = services & 8 ? SERVE_WHEN_TOLD : SERVE_AT_ONCE;
	world.stream = SERVE_AT_ONCE;
	world.accesses = world.late_n = world.raw_n = 0;
	world.fd = -1;
	world.gone_users = world.lax_records = false;
	world.dialled = (struct addr){ .len = 0 };
	far_init(&world.client, flags & 1);
	far_init(&world.target, false);
	far_attach(&world.client, mem_stream_new(world.loop));
	far_read_max(&world.client, flags & 2 ? 3 : 0);
	env.conf = conf_ref(confs[0]);
	env.policy = policy_ref(policies[0]);
	env.draining = false;
	next_head = 0;
	client_closed = false;
	client = (struct client){ .close_after_refusal = (flags & 4) == 0, .authenticated = on_login };
	must(addr_parse(&client.address, slice_of("192.0.2.7:40000")), "an address");
	audit_id(client.id);
	stream_on_closed(&world.client.m->base, on_client_closed, NULL);
}

static void finish(void)
{
	mem_fault_set(0, false);
	far_drain(&world.target, 0);
	loop_turn(world.loop);
	while (world.late_n > 0)
		tell_audit(0);
	loop_turn(world.loop);
	if (world.target.m)
		must(world.target.m->closed && world.target.m->gone, "a target is left");
	conf_unref(env.conf);
	policy_unref(env.policy);
	env.conf = NULL;
	env.policy = NULL;
	h1_free(h1);
	h1 = NULL;
}

/* Two digits: which services answer only when told; how the client's stream and the listener are, and how it ends. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct http_handler handler = { begin, gone };
	struct script s = { data, data + size };
	unsigned services = script_digit(&s), flags = script_digit(&s);

	if (size > SCRIPT_MAX)
		return 0;
	init();
	start(services, flags);
	h1 = h1_start(world.loop, &world.client.m->base, &client, env.conf, &handler, &env);
	must(h1 != NULL, "out of memory");
	while (s.at < s.end && !client_closed && world.accesses < ACCESSES_MAX / 2) {
		step(&s);
		check();
	}
	if (flags & 8) {
		run_out();
	} else {
		abort_connection(0);
		far_drain(&world.client, 0);
		loop_turn(world.loop);
		must(client_closed, "a connection that does not end when told to");
	}
	check();
	finish();
	for (size_t i = 0; i < world.accesses; i++)
		check_access(&world.access[i]);
	check_answers();
	check_reasons();
	check_idle();
	mem_stream_free(world.client.m);
	mem_stream_free(world.target.m);
	return 0;
}
