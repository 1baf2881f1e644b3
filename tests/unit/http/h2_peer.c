/* The two ends. The handler behaves as the relay does: one read a call, no more written than there is room for, reading
 * held back while the other side has not taken what came. */
#include "unit/http/h2_peer.h"

#include "http/h2_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct peer peer;

/* --- bytes --- */

char peer_pattern(size_t at)
{
	return (char)(at * 7 + at / 251 + at / 65521);
}

bool peer_is_pattern(const char *p, size_t n, size_t from)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != peer_pattern(from + i))
			return false;
	return true;
}

/* Room for n bytes and a NUL goes in powers of two, so that many small pieces are not copied again and again. */
static size_t peer_room(size_t n)
{
	size_t size = 64;

	while (size <= n)
		size *= 2;
	return size;
}

static void gather(char **to, size_t *to_n, const void *data, size_t n)
{
	size_t size = peer_room(*to_n + n);
	bool grows = !*to || peer_room(*to_n) != size;
	char *grown = grows ? realloc(*to, size) : *to;

	ADIT_ASSERT(grown);
	if (grows)
		memset(grown + *to_n, 0, size - *to_n); /* a test that looks for secrets shall not find another's here */
	if (n > 0)
		memcpy(grown + *to_n, data, n);
	*to = grown;
	*to_n += n;
}

/* --- the handler --- */

static void job_pour(struct peer_job *job)
{
	char bytes[STREAM_HEADROOM + PEER_BUFFER_BYTES], *p = bytes + STREAM_HEADROOM;

	while (job->s && job->supply > 0 && !job->broken && stream_queued(job->s) == 0) {
		size_t n = stream_room(job->s), most = job->piece ? job->piece : PEER_BUFFER_BYTES;

		n = n < most ? n : most;
		n = n < job->supply ? n : job->supply;
		if (n == 0)
			return;
		for (size_t i = 0; i < n; i++)
			p[i] = peer_pattern(job->supplied + i);
		job->supply -= n;
		job->supplied += n;
		if (!stream_write_over(job->s, p, n)) {
			job->broken = true;
			return;
		}
	}
	if (job->s && job->supply == 0 && job->supply_ends && !job->broken)
		job_finish(job);
}

/* As a relay to a socket reads: what lies in the stream's memory. Every other stream's bytes, and not always all. */
static bool job_peeks(struct peer_job *job)
{
	struct iovec v[3];
	unsigned count = job->id % 4 == 1 ? stream_peek(job->s, v, 3) : 0;
	size_t n = 0;

	if (count == 0)
		return false;
	for (unsigned i = 0; i < count; i++) {
		ADIT_ASSERT(v[i].iov_len > 0);
		gather(&job->in, &job->in_n, v[i].iov_base, v[i].iov_len);
		n += v[i].iov_len;
	}
	if (n > 20000) {
		job->in_n -= 7;
		n -= 7;
	}
	stream_skip(job->s, n);
	if (job->chokes) {
		job->held_back = true;
		stream_pause(job->s, STREAM_PAUSE_PEER_FULL);
	} else {
		stream_more(job->s);
	}
	if (job->echoes && !job->broken)
		job->broken = !stream_write(job->s, job->in + job->in_n - n, n);
	return true;
}

static void job_readable(void *ctx)
{
	static char bytes[PEER_BUFFER_BYTES];
	struct peer_job *job = ctx;
	size_t n;

	if (!job->reads) {
		job->held_back = true;
		stream_pause(job->s, STREAM_PAUSE_PEER_FULL);
		return;
	}
	if (job_peeks(job))
		return;
	switch (stream_read(job->s, bytes, sizeof(bytes), &n)) {
	case STREAM_IO_OK:
		ADIT_ASSERT(!job->eof);
		gather(&job->in, &job->in_n, bytes, n);
		if (job->chokes) {
			job->held_back = true;
			stream_pause(job->s, STREAM_PAUSE_PEER_FULL);
		}
		if (job->echoes && !job->broken)
			job->broken = !stream_write(job->s, bytes, n);
		if (n == sizeof(bytes))
			stream_more(job->s);
		return;
	case STREAM_IO_AGAIN:
		return;
	case STREAM_IO_EOF:
		job->eof = true;
		(void)snprintf(job->trailers, sizeof(job->trailers), SLICE_FMT, SLICE_ARG(job->r->trailers));
		stream_pause(job->s, STREAM_PAUSE_EOF);
		if (job->echoes && !job->broken)
			job_finish(job);
		return;
	default:
		job->stream_fault = stream_fault(job->s);
		ADIT_ASSERT(job->stream_fault != STREAM_FAULT_NONE);
		stream_pause(job->s, STREAM_PAUSE_EOF);
		return;
	}
}

static void job_drained(void *ctx)
{
	struct peer_job *job = ctx;

	job->drained++;
	job_pour(job);
}

static void job_fault(void *ctx)
{
	((struct peer_job *)ctx)->broken = true;
}

static const struct stream_handler job_stream = { job_readable, job_drained, job_fault };

static void *begin(void *ctx, struct request *r)
{
	struct peer_job *job = &peer.jobs[peer.count];

	ADIT_ASSERT(ctx == &peer && peer.count < PEER_JOBS);
	ADIT_ASSERT(r->protocol && strcmp(r->protocol, "h2") == 0 && r->client == &peer.client && r->conf == peer.conf);
	peer.count++;
	job->r = r;
	job->id = r == &peer.h->refused ? 0 : OBJ_OF(r, struct h2_stream, request)->id;
	job->fault = r->fault;
	job->reads = peer.reads;
	job->echoes = peer.echoes;
	(void)snprintf(job->method, sizeof(job->method), SLICE_FMT, SLICE_ARG(r->method_text));
	(void)snprintf(job->target, sizeof(job->target), SLICE_FMT, SLICE_ARG(r->target));
	if (r->has_credentials)
		(void)snprintf(job->credentials, sizeof(job->credentials), SLICE_FMT, SLICE_ARG(r->credentials));
	if (peer.login)
		peer.client.logged_in = true;
	if (r->fault != REASON_OK)
		job_refuse(job, r->fault); /* as the tunnel does, at once */
	else if (peer.on_begin)
		peer.on_begin(job);
	return job->r ? job : NULL;
}

static void gone(void *object, enum reason why)
{
	struct peer_job *job = object;
	struct request *r = job->r;
	struct stream *s = job->s;

	ADIT_ASSERT(job->gone == 0 && r);
	job->gone++;
	job->why = why;
	job->r = NULL;
	job->s = NULL;
	if (s) {
		stream_close(s, STREAM_CLOSE_ABORT);
		request_end(r);
	}
}

static const struct http_handler handler = { begin, gone };

struct peer_job *job_at(unsigned i)
{
	ADIT_ASSERT(i < peer.count);
	return &peer.jobs[i];
}

static void job_attach(struct peer_job *job, struct stream *s)
{
	job->s = s;
	if (!s) {
		struct request *r = job->r;

		job->r = NULL;
		job->answered++;
		request_end(r);
		return;
	}
	job->carries = true;
	stream_attach(s, &job_stream, job);
	stream_resume(s, STREAM_PAUSE_IDLE);
}

void job_accept(struct peer_job *job)
{
	ADIT_ASSERT(job->r && !job->s);
	request_forget(job->r);
	job_attach(job, request_accept(job->r));
}

static void job_respond(struct peer_job *job, const struct response *response)
{
	struct request *r = job->r;

	ADIT_ASSERT(r);
	job->r = NULL;
	job->s = NULL;
	job->carries = false;
	job->answered++;
	request_respond(r, response);
}

void job_refuse(struct peer_job *job, enum reason reason)
{
	struct response response = response_refusal(reason);

	if (response.status == 0)
		response.status = 400;
	response.realm = "adit";
	job_respond(job, &response);
}

void job_local(struct peer_job *job)
{
	const struct response response = { .status = 200, .body = slice_of("ok\n") };

	job_respond(job, &response);
}

void job_exchange(struct peer_job *job)
{
	ADIT_ASSERT(job->r && !job->s);
	request_forget(job->r);
	job_attach(job, request_exchange(job->r));
}

bool job_reply(struct peer_job *job, int status, const char *fields, struct framing framing)
{
	ADIT_ASSERT(job->r && job->s);
	return request_reply(job->r, status, slice_of(fields), framing);
}

void job_write(struct peer_job *job, const void *data, size_t n)
{
	if (job->s && !stream_write(job->s, data, n))
		job->broken = true;
}

void job_supply(struct peer_job *job, size_t n, bool ends)
{
	job->supply += n;
	job->supply_ends = ends;
	job_pour(job);
}

void job_finish(struct peer_job *job)
{
	job->supply_ends = false;
	job->finished = true;
	if (job->s)
		stream_finish(job->s);
}

void job_swallow(struct peer_job *job)
{
	job->held_back = false;
	if (job->s)
		stream_resume(job->s, STREAM_PAUSE_PEER_FULL);
}

void job_close(struct peer_job *job, enum stream_close how)
{
	struct request *r = job->r;
	struct stream *s = job->s;

	ADIT_ASSERT(r && s);
	job->r = NULL;
	job->s = NULL;
	job->answered++;
	job->flushed = how == STREAM_CLOSE_FLUSH;
	stream_close(s, how);
	request_end(r);
}

/* --- the client, as nghttp2 calls it --- */

struct peer_stream *peer_at(int32_t id)
{
	struct peer_stream **at;

	ADIT_ASSERT(id > 0 && id / 2 < PEER_STREAMS);
	at = &peer.streams[id / 2];
	if (!*at) {
		*at = calloc(1, sizeof(**at));
		ADIT_ASSERT(*at);
		(*at)->id = id;
	}
	return *at;
}

static int c_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_n,
	const uint8_t *value, size_t value_n, uint8_t flags, void *ctx)
{
	struct peer_stream *s = peer_at(frame->hd.stream_id);
	size_t left = sizeof(s->fields) - s->fields_n;

	(void)session, (void)flags, (void)ctx;
	if (name_n == 7 && memcmp(name, ":status", 7) == 0) {
		unsigned long long status = 0;

		ADIT_ASSERT(slice_to_u64((struct slice){ (const char *)value, value_n }, 999, &status));
		s->status = (int)status;
	}
	s->fields_n += (size_t)snprintf(s->fields + s->fields_n, left, "%.*s: %.*s\n", (int)name_n, (const char *)name,
	    (int)value_n, (const char *)value);
	ADIT_ASSERT(s->fields_n < sizeof(s->fields));
	return 0;
}

static int c_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t n, void *ctx)
{
	struct peer_stream *s = peer_at(id);

	(void)session, (void)flags, (void)ctx;
	gather(&s->data, &s->n, data, n);
	return 0;
}

static void c_head(struct peer_stream *s)
{
	s->heads++;
	if (s->status >= 100 && s->status < 200) {
		s->interims++;
		s->status = 0;
	} else if (s->heads - s->interims > 1) {
		s->trailers++;
	}
}

static int c_frame(nghttp2_session *session, const nghttp2_frame *frame, void *ctx)
{
	struct peer_stream *s = frame->hd.stream_id > 0 ? peer_at(frame->hd.stream_id) : NULL;

	(void)session, (void)ctx;
	switch (frame->hd.type) {
	case NGHTTP2_HEADERS:
		c_head(s);
		break;
	case NGHTTP2_RST_STREAM:
		s->reset = true;
		break;
	case NGHTTP2_GOAWAY:
		peer.goaway = true;
		peer.goaways++;
		peer.goaway_error = frame->goaway.error_code;
		peer.goaway_last = frame->goaway.last_stream_id;
		break;
	case NGHTTP2_PING:
		peer.pings += !(frame->hd.flags & NGHTTP2_FLAG_ACK);
		peer.ping_acks += (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0;
		break;
	case NGHTTP2_SETTINGS:
		peer.settings += !(frame->hd.flags & NGHTTP2_FLAG_ACK);
		break;
	default:
		break;
	}
	if (s && (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
	    (frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		s->ended = true;
	return 0;
}

static int c_close(nghttp2_session *session, int32_t id, uint32_t error, void *ctx)
{
	struct peer_stream *s = peer_at(id);

	(void)session, (void)ctx;
	s->closed = true;
	s->error = error;
	return 0;
}

static ssize_t c_up(nghttp2_session *session, int32_t id, uint8_t *buf, size_t most, uint32_t *flags,
	nghttp2_data_source *source, void *ctx)
{
	struct peer_stream *s = peer_at(id);
	size_t n = s->up_n - s->up_at;

	(void)session, (void)source, (void)ctx;
	if (n > most)
		n = most;
	if (n > 0)
		memcpy(buf, s->up + s->up_at, n);
	s->up_at += n;
	if (s->up_at == s->up_n && s->up_ends)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	else if (n == 0)
		return NGHTTP2_ERR_DEFERRED;
	return (ssize_t)n;
}

static nghttp2_session *client_new(bool windows)
{
	nghttp2_session_callbacks *c = NULL;
	nghttp2_option *option = NULL;
	nghttp2_session *session = NULL;

	ADIT_ASSERT(nghttp2_session_callbacks_new(&c) == 0 && nghttp2_option_new(&option) == 0);
	nghttp2_session_callbacks_set_on_header_callback(c, c_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, c_chunk);
	nghttp2_session_callbacks_set_on_frame_recv_callback(c, c_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(c, c_close);
	nghttp2_option_set_no_auto_window_update(option, !windows);
	nghttp2_option_set_peer_max_concurrent_streams(option, PEER_STREAMS);
	ADIT_ASSERT(nghttp2_session_client_new2(&session, c, NULL, option) == 0);
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(c);
	return session;
}

void peer_hello_settings(bool windows, const nghttp2_settings_entry *settings, size_t n)
{
	peer.session = client_new(windows);
	ADIT_ASSERT(nghttp2_submit_settings(peer.session, NGHTTP2_FLAG_NONE, settings, n) == 0);
}

void peer_hello(bool windows)
{
	peer_hello_settings(windows, NULL, 0);
}

static bool client_talks(void)
{
	const uint8_t *p;
	ssize_t n;
	bool any = false;

	while (peer.session && !peer.client_failed && (n = nghttp2_session_mem_send(peer.session, &p)) != 0) {
		ADIT_ASSERT(n > 0);
		mem_feed(peer.m, p, (size_t)n);
		any = true;
	}
	return any;
}

static bool client_listens(void)
{
	struct mem_stream *m = peer.m;
	size_t n = m->out_n - peer.taken;

	if (n == 0)
		return false;
	if (peer.session && !peer.client_failed &&
	    nghttp2_session_mem_recv(peer.session, (const uint8_t *)m->out + peer.taken, n) != (ssize_t)n)
		peer.client_failed = true;
	peer.taken += n;
	return true;
}

static void turn(void)
{
	if (peer.watch)
		peer.watch(true);
	loop_turn(peer.loop);
	if (peer.watch)
		peer.watch(false);
}

bool peer_step(void)
{
	bool talked = client_talks();

	turn();
	return client_listens() || talked;
}

void peer_run(void)
{
	while (peer_step())
		;
}

int32_t peer_request(const char *method, const char *scheme, const char *authority, const char *path, const char *fields,
	bool ends)
{
	static const char *const names[] = { ":method", ":scheme", ":authority", ":path" };
	const char *const values[] = { method, scheme, authority, path };
	nghttp2_nv nv[64];
	size_t n = 0;
	nghttp2_data_provider provider = { .read_callback = c_up };
	char text[4096], *rest = text, *line;
	int32_t id;

	for (size_t i = 0; i < 4; i++)
		if (values[i])
			nv[n++] = (nghttp2_nv){ (uint8_t *)(uintptr_t)names[i], (uint8_t *)(uintptr_t)values[i], strlen(names[i]),
				strlen(values[i]), NGHTTP2_NV_FLAG_NONE };
	(void)snprintf(text, sizeof(text), "%s", fields ? fields : "");
	while ((line = strsep(&rest, "\n")) && *line) {
		char *value = strstr(line, ": ");

		ADIT_ASSERT(value && n < 64);
		nv[n++] = (nghttp2_nv){ (uint8_t *)line, (uint8_t *)value + 2, (size_t)(value - line), strlen(value + 2),
			NGHTTP2_NV_FLAG_NO_INDEX };
	}
	id = nghttp2_submit_request(peer.session, NULL, nv, n, ends ? NULL : &provider, NULL);
	ADIT_ASSERT(id > 0);
	peer_at(id)->up_ends = ends;
	return id;
}

int32_t peer_connect(const char *authority, const char *credentials)
{
	char fields[256] = "";

	if (credentials)
		(void)snprintf(fields, sizeof(fields), "proxy-authorization: %s\n", credentials);
	return peer_request("CONNECT", NULL, authority, NULL, fields, false);
}

void peer_send(int32_t id, const void *data, size_t n, bool ends)
{
	struct peer_stream *s = peer_at(id);

	gather(&s->up, &s->up_n, data, n);
	s->up_ends = s->up_ends || ends;
	(void)nghttp2_session_resume_data(peer.session, id);
}

void peer_send_text(int32_t id, const char *text, bool ends)
{
	peer_send(id, text, strlen(text), ends);
}

void peer_send_pattern(int32_t id, size_t n, bool ends)
{
	size_t from = peer_at(id)->up_n;
	char *bytes = malloc(n + 1);

	ADIT_ASSERT(bytes);
	for (size_t i = 0; i < n; i++)
		bytes[i] = peer_pattern(from + i);
	peer_send(id, bytes, n, ends);
	free(bytes);
}

void peer_reset(int32_t id, uint32_t error)
{
	ADIT_ASSERT(nghttp2_submit_rst_stream(peer.session, NGHTTP2_FLAG_NONE, id, error) == 0);
}

bool peer_has_field(int32_t id, const char *line)
{
	return strstr(peer_at(id)->fields, line) != NULL;
}

/* --- frames by hand --- */

static void put(struct frames *f, const void *p, size_t n)
{
	ADIT_ASSERT(n <= sizeof(f->bytes) - f->n);
	if (n > 0)
		memcpy(f->bytes + f->n, p, n);
	f->n += n;
}

void put_preface(struct frames *f)
{
	put(f, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
}

void put_frame(struct frames *f, uint8_t type, uint8_t flags, uint32_t id, const void *payload, size_t n)
{
	const uint8_t head[] = { (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, type, flags, (uint8_t)(id >> 24),
		(uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id };

	put(f, head, sizeof(head));
	put(f, payload, n);
}

void put_settings(struct frames *f, uint16_t key, uint32_t value)
{
	const uint8_t entry[] = { (uint8_t)(key >> 8), (uint8_t)key, (uint8_t)(value >> 24), (uint8_t)(value >> 16),
		(uint8_t)(value >> 8), (uint8_t)value };

	put_frame(f, NGHTTP2_SETTINGS, 0, 0, entry, key ? sizeof(entry) : 0);
}

void put_u32_frame(struct frames *f, uint8_t type, uint32_t id, uint32_t value)
{
	const uint8_t payload[] = { (uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value };

	put_frame(f, type, 0, id, payload, sizeof(payload));
}

/* RFC 7541 5.1 with a 7-bit prefix. */
static size_t put_length(char *to, size_t n)
{
	size_t at = 0;

	if (n < 127) {
		to[at++] = (char)n;
		return at;
	}
	to[at++] = 127;
	for (n -= 127; n >= 128; n /= 128)
		to[at++] = (char)(n % 128 + 128);
	to[at++] = (char)n;
	return at;
}

size_t put_fields(char *to, size_t size, const char *fields)
{
	size_t at = 0;

	to[at++] = 0x20; /* the table has no room: to be said once after our SETTINGS, and may be said again */
	while (*fields) {
		const char *value = strstr(fields, ": "), *end = strchr(fields, '\n');
		size_t name_n = (size_t)(value - fields), value_n = (size_t)(end - value) - 2;

		ADIT_ASSERT(value && end && at + name_n + value_n + 12 < size);
		to[at++] = 0; /* literal, not for any table, new name */
		at += put_length(to + at, name_n);
		memcpy(to + at, fields, name_n);
		at += name_n;
		at += put_length(to + at, value_n);
		memcpy(to + at, value + 2, value_n);
		at += value_n;
		fields = end + 1;
	}
	return at;
}

void put_headers(struct frames *f, uint32_t id, const char *fields, uint8_t flags)
{
	char block[16384];

	put_frame(f, NGHTTP2_HEADERS, flags, id, block, put_fields(block, sizeof(block), fields));
}

void put_connect(struct frames *f, uint32_t id, const char *authority, bool ends)
{
	char fields[400];

	(void)snprintf(fields, sizeof(fields), ":method: CONNECT\n:authority: %s\n", authority);
	put_headers(f, id, fields, (uint8_t)(NGHTTP2_FLAG_END_HEADERS | (ends ? NGHTTP2_FLAG_END_STREAM : 0)));
}

void peer_feed(const struct frames *f)
{
	mem_feed(peer.m, f->bytes, f->n);
	peer_run();
}

void peer_forget(void)
{
	ADIT_ASSERT(peer.taken == peer.m->out_n);
	peer.m->out_n = peer.taken = 0;
}

bool next_frame(size_t *at, struct frame *out)
{
	const uint8_t *p = (const uint8_t *)peer.m->out + *at;
	size_t left = peer.m->out_n - *at, n;

	if (left < 9)
		return false;
	n = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
	if (left < 9 + n)
		return false;
	*out = (struct frame){ .type = p[3], .flags = p[4], .payload = p + 9, .n = n };
	out->id = ((uint32_t)p[5] << 24 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 8 | p[8]) & 0x7fffffff;
	*at += 9 + n;
	return true;
}

unsigned frames_of(uint8_t type, int64_t id)
{
	struct frame f;
	size_t at = 0;
	unsigned n = 0;

	while (next_frame(&at, &f))
		n += f.type == type && (id < 0 || f.id == id);
	return n;
}

static uint32_t u32_of(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

uint32_t reset_of(uint32_t id)
{
	struct frame f;
	size_t at = 0;

	while (next_frame(&at, &f))
		if (f.type == NGHTTP2_RST_STREAM && f.id == id)
			return u32_of(f.payload);
	return ~(uint32_t)0;
}

bool goaway_of(uint32_t *error)
{
	struct frame f;
	size_t at = 0;
	bool any = false;

	while (next_frame(&at, &f))
		if (f.type == NGHTTP2_GOAWAY) {
			*error = u32_of(f.payload + 4);
			any = true;
		}
	return any;
}

/* --- the connection --- */

static void on_closed(void *ctx)
{
	(void)ctx;
	peer.closed = true;
}

void peer_open(const struct conf_option *options, size_t n)
{
	struct conf_errors errors = { 0 };

	memset(&peer, 0, sizeof(peer));
	peer.conf = conf_load(NULL, options, n, &errors);
	if (!peer.conf)
		conf_errors_print(&errors, stderr);
	ADIT_ASSERT(peer.conf);
	peer.loop = loop_new_manual();
	ADIT_ASSERT(peer.loop);
}

bool peer_start(void)
{
	struct loop *loop = peer.loop;
	struct conf *conf = peer.conf;
	void (*watch)(bool) = peer.watch;

	memset(&peer, 0, sizeof(peer));
	peer.loop = loop;
	peer.conf = conf;
	peer.watch = watch;
	peer.reads = true;
	peer.m = mem_stream_new(loop);
	stream_on_closed(&peer.m->base, on_closed, NULL);
	peer.h = h2_start(loop, &peer.m->base, &peer.client, conf, &handler, &peer, peer.buffer, sizeof(peer.buffer));
	return peer.h != NULL;
}

static void forget_streams(void)
{
	for (size_t i = 0; i < PEER_STREAMS; i++) {
		if (!peer.streams[i])
			continue;
		free(peer.streams[i]->data);
		free(peer.streams[i]->up);
		free(peer.streams[i]);
		peer.streams[i] = NULL;
	}
	for (unsigned i = 0; i < peer.count; i++)
		free(peer.jobs[i].in);
}

void peer_stop(void)
{
	if (peer.watch)
		peer.watch(true);
	if (peer.h)
		h2_abort(peer.h, REASON_SHUTDOWN);
	else if (!peer.m->closed)
		stream_close(&peer.m->base, STREAM_CLOSE_ABORT);
	loop_turn(peer.loop);
	mem_drain(peer.m, SIZE_MAX);
	loop_turn(peer.loop);
	ADIT_ASSERT(peer.closed);
	h2_free(peer.h);
	if (peer.watch)
		peer.watch(false);
	peer.h = NULL;
	for (unsigned i = 0; i < peer.count; i++) {
		const struct peer_job *job = &peer.jobs[i];

		ADIT_ASSERT(!job->r && !job->s && job->answered + job->gone == 1);
	}
	mem_stream_free(peer.m);
	peer.m = NULL;
	nghttp2_session_del(peer.session);
	peer.session = NULL;
	forget_streams();
	ADIT_ASSERT(loop_held(peer.loop) == 0);
}

void peer_close(void)
{
	loop_free(peer.loop);
	conf_unref(peer.conf);
}
