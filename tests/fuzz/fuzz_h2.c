/* An HTTP/2 connection in memory: any bytes of a client (mode 'r'), or nghttp2's client and a handler that follow a
 * script (all else): bytes and ends of both sides, verdicts, refusals, resets, frames by hand among the client's,
 * blocked writes, faults, time, memory that runs out.
 *
 * However it goes: every request has one answer or one good-bye; what is carried is what was sent, and an end is seen
 * where one was said; the windows together stay under their cap; little waits; and in the end nothing is left. */
#include "fuzz/script.h"
#include "http/h2_priv.h"
#include "loop/loop_priv.h"

/* scripts/fuzz compiles one file */
#include "component/mem_stream.c"
#include "unit/http/h2_peer.c"

enum { SCRIPT_MAX = 2000, STREAMS = 12, CLIENT_BYTES_MAX = 300000, TARGET_BYTES_MAX = 400000 };

static int32_t ids[STREAMS];
static unsigned id_count;
static bool by_hand; /* frames that nghttp2's client knows nothing of were sent: it cannot be held to its word */
static bool starved; /* memory has run out */
static bool cut; /* the connection has broken: what the client saw last is no proof */

static void init(void)
{
	static const struct conf_option options[] = {
		{ "http2.streams", "8" }, { "http2.window", "1MiB" }, { "http2.stream_window", "256KiB" },
		{ "http2.header_list", "1KiB" }, { "http.request_line", "256" }, { "http.fields", "8" },
	};

	if (!peer.loop)
		peer_open(options, sizeof(options) / sizeof(options[0]));
}

/* --- what must hold at any time --- */

/* What the client may still send, and what of it is here already, is what the stream's window says at most. */
static void check_window(const struct h2_stream *s)
{
	const struct h2 *h = s->h;
	int32_t left;

	must(s->window <= h->conf->http2.stream_window_bytes, "a window above its cap");
	must(s->in.n <= h->conf->http2.stream_window_bytes, "more is kept than was advertised");
	if (!s->open || h->session_failed)
		return;
	left = nghttp2_session_get_stream_local_window_size(h->session, s->id);
	must(left <= (int32_t)s->window, "a window above what is on the books");
	must(left < 0 || (size_t)left + s->in.n + s->lent <= s->window, "more may come than there is room for");
}

static void check_sums(void)
{
	const struct h2 *h = peer.h;
	const struct h2_stream *s;
	size_t windows = 0, in = 0, out = 0;
	unsigned count = 0;

	TAILQ_FOREACH(s, &h->streams, entry) {
		windows += s->window;
		in += s->in.n;
		out += s->out.n;
		count++;
		check_window(s);
	}
	must(windows == h->windows && in == h->in_total && out == h->out_total && count == h->count, "sums");
	must(windows <= h->conf->http2.window_bytes, "windows above their cap");
	must(in <= h->conf->http2.window_bytes, "more is kept than all windows take");
	must(out <= 2 * H2_OUT_MAX, "more is queued than may");
	must(peer.m->queue_n <= H2_TURN_BYTES + 2 * H2_OUT_MAX, "more waits below than may");
}

static struct peer_stream *client_of(const struct peer_job *job)
{
	return job->id > 0 && job->id / 2 < PEER_STREAMS ? peer.streams[job->id / 2] : NULL;
}

/* Looks at what is new. */
static bool is_pattern(const char *p, size_t n, size_t *checked)
{
	size_t from = *checked;

	*checked = n;
	return from >= n || peer_is_pattern(p + from, n - from, from);
}

static void check_job(struct peer_job *job)
{
	struct peer_stream *c = client_of(job);

	if (!c || by_hand)
		return;
	must(job->in_n <= c->up_at && is_pattern(job->in, job->in_n, &job->checked), "other bytes than the client's");
	if (job->eof)
		must(c->up_ends && job->in_n == c->up_n, "an end before the client's last byte");
	if (!job->carries)
		return; /* another answer */
	must(c->n <= job->supplied && is_pattern(c->data, c->n, &c->checked), "other bytes than the handler's");
	if (c->ended && c->status == 200 && job->supplied > 0)
		must((job->finished || job->flushed) && c->n == job->supplied, "an end before the last byte");
}

static void check(void)
{
	check_sums();
	for (unsigned i = 0; i < peer.count; i++)
		check_job(&peer.jobs[i]);
	must(by_hand || cut || starved || !peer.client_failed, "the client does not understand");
	if (peer.closed)
		must(peer.h->count == 0, "a stream without a connection");
}

static void check_idle(void)
{
	must(TAILQ_EMPTY(&peer.loop->manual_deadlines), "a deadline is left");
	must(TAILQ_EMPTY(&peer.loop->tasks) && STAILQ_EMPTY(&peer.loop->graves), "something is left in the loop");
	must(peer.conf->refs == 1, "references to the configuration");
}

/* --- the script --- */

static int32_t some_id(unsigned digit)
{
	return id_count > 0 ? ids[digit % id_count] : 1;
}

static struct peer_job *some_job(unsigned digit)
{
	for (unsigned i = 0; i < peer.count; i++) {
		struct peer_job *job = &peer.jobs[(i + digit) % peer.count];

		if (job->r)
			return job;
	}
	return NULL;
}

static size_t some_size(unsigned digit)
{
	static const size_t sizes[] = { 1, 2, 9, 100, 1015, 1024, 4096, 16374, 16375, 16376, 32750, 65500, 65535, 65536, 20000, 0 };

	return sizes[digit & 15];
}

static void new_request(unsigned digit)
{
	static const char *const credentials = "Basic YWxpY2U6c2VjcmV0";
	char list[900];

	if (id_count == STREAMS || !peer.session || peer.client_failed)
		return;
	switch (digit) {
	default:
		ids[id_count++] = peer_connect("a.test:443", digit & 1 ? credentials : NULL);
		return;
	case 8: ids[id_count++] = peer_request("GET", "http", "a.test", "/", "cookie: a=b\ncookie: c=d\n", true); return;
	case 9: ids[id_count++] = peer_request("POST", "http", "a.test", "/x?y", NULL, false); return;
	case 10: ids[id_count++] = peer_request("HEAD", "https", "proxy.test", "/healthz", NULL, true); return;
	case 11: ids[id_count++] = peer_request("OPTIONS", "http", "a.test", "*", "max-forwards: 0\n", true); return;
	case 12: ids[id_count++] = peer_request("GET", "ftp", "a.test", "/", NULL, true); return;
	case 13: ids[id_count++] = peer_request("CONNECT", NULL, "a.test", NULL, NULL, false); return;
	case 14:
		memset(list, 'v', sizeof(list));
		memcpy(list, "x: ", 3);
		memcpy(list + sizeof(list) - 2, "\n", 2);
		ids[id_count++] = peer_request("POST", "http", "a.test", "/", list, false);
		return;
	}
}

static void client_sends(struct script *s)
{
	int32_t id = some_id(script_digit(s));
	unsigned digit = script_digit(s);
	size_t n = some_size(digit);

	if (!peer.session || !peer.streams[id / 2] || peer_at(id)->up_n + n > CLIENT_BYTES_MAX || peer_at(id)->up_ends)
		return;
	peer_send_pattern(id, n, digit == 15);
}

/* A frame of any kind among the client's own: type, flags, stream, payload. */
static void send_frame(struct script *s)
{
	static struct frames f;
	uint8_t type = (uint8_t)(script_digit(s) % 11), flags = (uint8_t)script_byte(s);
	unsigned where = script_digit(s);
	const uint8_t *p;
	size_t n = script_take(s, script_byte(s), &p);
	uint32_t id = where == 15 ? 0 : where == 14 ? 2 * (id_count + 20) + 1 : (uint32_t)some_id(where);

	f.n = 0;
	put_frame(&f, type, flags, id, p, n);
	mem_feed(peer.m, f.bytes, f.n);
	by_hand = true;
}

static void send_fields(struct script *s)
{
	static const char *const lists[] = {
		":method: CONNECT\n:authority: a.test:443\n",
		":method: POST\n:scheme: http\n:authority: a.test\n:path: /\nte: trailers\n",
		"x: y\n",
		":method: GET\n:scheme: http\n:authority: a.test\n:path: /\nconnection: x\n",
		":method: POST\n:scheme: http\n:authority: a.test\n:path: /\ncontent-length: 5\n",
		":status: 200\n",
		":method: CONNECT\n:authority: a.test:443\n:path: /\n",
		"host: b.test\n",
	};
	static struct frames f;
	unsigned list = script_digit(s), where = script_digit(s), flags = script_digit(s);

	f.n = 0;
	put_headers(&f, where < 8 ? 2 * (id_count + where + 20) + 1 : (uint32_t)some_id(where), lists[list & 7],
	    (uint8_t)((flags & 1 ? NGHTTP2_FLAG_END_STREAM : 0) | (flags & 2 ? 0 : NGHTTP2_FLAG_END_HEADERS)));
	mem_feed(peer.m, f.bytes, f.n);
	by_hand = true;
}

static void send_raw(struct script *s)
{
	const uint8_t *p;
	size_t n = script_take(s, script_byte(s), &p);

	mem_feed(peer.m, p, n);
	by_hand = true;
}

static void client_windows(unsigned digit)
{
	int32_t id = digit & 8 ? 0 : some_id(digit);
	nghttp2_settings_entry entry = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t[]){ 0, 300, 65535, 16 << 20 }[digit & 3] };

	if (peer.session && digit & 4)
		(void)nghttp2_submit_settings(peer.session, NGHTTP2_FLAG_NONE, &entry, 1);
	else if (peer.session)
		(void)nghttp2_submit_window_update(peer.session, NGHTTP2_FLAG_NONE, id, (int32_t)some_size(digit | 8));
}

static void decide(struct peer_job *job, unsigned digit)
{
	static const struct framing framings[] = { { FRAMING_CHUNKED, 0 }, { FRAMING_NONE, 0 }, { FRAMING_CLOSE, 0 },
						   { FRAMING_LENGTH, 1000 } };
	const bool absolute = job && job->r && job->r->form == HEAD_FORM_ABSOLUTE;

	if (!job)
		return;
	if (job->s && absolute && digit < 8) {
		struct h2_stream *s = OBJ_OF(job->s, struct h2_stream, base);

		if (s->replied || !s->open)
			return;
		if (digit >= 4)
			(void)request_interim(job->r, 103, slice_of("link: x\r\n"));
		else if (job_reply(job, 200, "x: y\r\n", framings[digit]) && framings[digit].kind == FRAMING_NONE)
			job_finish(job);
		return;
	}
	if (job->s)
		return;
	switch (digit & 3) {
	case 0: job_refuse(job, REASON_AUTH_REQUIRED); return;
	case 1: job_local(job); return;
	default:
		if (absolute)
			job_exchange(job);
		else if (job->r->method == HEAD_CONNECT)
			job_accept(job);
		else
			job_refuse(job, REASON_ADDRESS_DENIED);
		return;
	}
}

static bool may_write(const struct peer_job *job)
{
	const struct h2_stream *s;

	if (!job || !job->s || job->finished || job->supply_ends)
		return false;
	s = OBJ_OF(job->s, struct h2_stream, base);
	return s->replied && !s->end_wanted && job->supplied + job->supply < TARGET_BYTES_MAX;
}

static void supply(struct script *s)
{
	struct peer_job *job = some_job(script_digit(s));
	unsigned digit = script_digit(s);

	if (!may_write(job))
		return;
	job->piece = digit & 1 ? 0 : 5000;
	if (digit == 15)
		job->r->reply_trailers = slice_of("x-last: y\r\n");
	job_supply(job, 3 * some_size(digit), digit == 15);
}

static void close_job(struct script *s)
{
	static const enum stream_close ends[] = { STREAM_CLOSE_FLUSH, STREAM_CLOSE_TRUNCATE, STREAM_CLOSE_ABORT };
	struct peer_job *job = some_job(script_digit(s));
	unsigned digit = script_digit(s);

	if (job && job->s && job->supply == 0 && !job->supply_ends)
		job_close(job, ends[job->broken && digit % 3 == 0 ? 1 : digit % 3]);
	else if (job && job->s && digit & 8)
		job_close(job, STREAM_CLOSE_ABORT);
}

static void pass_time(unsigned digit)
{
	static const unsigned times[] = { 1, 10, 50, 100, 500, 1000, 2000, 5000, 10000, 15000, 30000, 60000, 3, 30, 300, 3000 };

	loop_advance(peer.loop, times[digit & 15]);
}

static void step(struct script *s)
{
	unsigned letter = script_byte(s), digit;
	struct peer_job *job;

	switch (letter & 0x1f) {
	case 'a' & 0x1f: job = some_job(script_digit(s)); decide(job, script_digit(s)); break;
	case 'b' & 0x1f: cut = true; mem_break(peer.m, STREAM_FAULT_RESET); break;
	case 'c' & 0x1f: new_request(script_digit(s)); break;
	case 'd' & 0x1f: supply(s); break;
	case 'e' & 0x1f: if (!cut) { cut = true; mem_feed_eof(peer.m, script_digit(s) & 1); } break;
	case 'f' & 0x1f: send_frame(s); break;
	case 'g' & 0x1f: if (peer.session) (void)nghttp2_submit_ping(peer.session, NGHTTP2_FLAG_NONE, NULL); break;
	case 'h' & 0x1f: send_fields(s); break;
	case 'i' & 0x1f: send_raw(s); break;
	case 'j' & 0x1f: peer.reads = script_digit(s) & 1; break;
	case 'k' & 0x1f: close_job(s); break;
	case 'l' & 0x1f: peer.client.logged_in = true; break;
	case 'm' & 0x1f: starved = true; digit = script_byte(s); mem_fault_set(digit + 1, script_digit(s) == 15); break;
	case 'n' & 0x1f: mem_fault_set(0, false); break;
	case 'o' & 0x1f:
		digit = script_digit(s);
		if ((job = some_job(digit)))
			job->chokes = digit & 8, job->reads = true, job_swallow(job);
		break;
	case 'p' & 0x1f: pass_time(script_digit(s)); break;
	case 'q' & 0x1f: peer.m->window = (size_t[]){ SIZE_MAX, 0, 100, 20000 }[script_digit(s) & 3]; break;
	case 'r' & 0x1f: digit = script_digit(s); if (id_count > 0 && peer.session && !peer.client_failed) peer_reset(some_id(digit), digit & 8 ? 8 : 0); break;
	case 's' & 0x1f: client_sends(s); break;
	case 't' & 0x1f: mem_drain(peer.m, (size_t[]){ 1, 100, 10000, SIZE_MAX }[script_digit(s) & 3]); break;
	case 'u' & 0x1f: peer.m->rtt_us = 20000 * script_digit(s); break;
	case 'v' & 0x1f: if (!peer.closed) h2_drain(peer.h); break;
	case 'w' & 0x1f: client_windows(script_digit(s)); break;
	case 'x' & 0x1f: if (!peer.closed) h2_abort(peer.h, REASON_REVOKED); break;
	case 'y' & 0x1f: peer.m->read_max = (size_t[]){ 0, 40, 300, 2000 }[script_digit(s) & 3]; break;
	case 'z' & 0x1f: if (peer.session) (void)nghttp2_session_terminate_session(peer.session, script_digit(s) & 1); break;
	default: break;
	}
	if (!(letter & 0x20))
		return;
	peer_run();
	check();
}

static void run_script(struct script *s, unsigned mode)
{
	peer.client.logged_in = !(mode & 1);
	peer.reads = !(mode & 2);
	if (!(mode & 4))
		peer_hello(!(mode & 8));
	for (unsigned i = 0; i < 400 && s->at < s->end; i++)
		step(s);
	mem_fault_set(0, false);
	peer_run();
	check();
}

/* --- any bytes --- */

static void on_begin(struct peer_job *job)
{
	switch (peer.count % 4) {
	case 0: return;
	case 1: job_local(job); return;
	default:
		if (job->r->form == HEAD_FORM_ABSOLUTE)
			job_exchange(job);
		else if (job->r->method == HEAD_CONNECT)
			job_accept(job);
		return;
	}
}

static void run_bytes(struct script *s)
{
	size_t piece = script_byte(s) + 1u;
	const uint8_t *p;

	by_hand = true;
	peer.on_begin = on_begin;
	peer.echoes = piece & 1;
	mem_feed(peer.m, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
	while (s->at < s->end) {
		size_t n = script_take(s, piece, &p);

		mem_feed(peer.m, p, n);
		peer_run();
		check_sums();
	}
	loop_advance(peer.loop, peer.conf->deadlines.head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, data + size };
	unsigned mode;

	if (size < 2 || size > SCRIPT_MAX)
		return 0;
	init();
	memset(ids, 0, sizeof(ids));
	id_count = 0;
	by_hand = starved = cut = false;
	mode = script_byte(&s);
	must(peer_start(), "no connection");
	if (mode == 'r')
		run_bytes(&s);
	else
		run_script(&s, mode);
	peer_stop();
	check_idle();
	return 0;
}
