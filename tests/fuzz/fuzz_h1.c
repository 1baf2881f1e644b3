/* Any bytes on a client's connection, cut anywhere: no crash, one request at a time and each begun once, no credentials
 * left behind, early data whole and in order, and what is answered does not depend on the cuts. */
#include "adit/http/h1.h"

#include "adit/http/local.h"

/* scripts/fuzz compiles one file */
#include "component/mem_stream.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CLOSES = 1, LATER = 2, ACCEPTS = 4, ENDS = 8, BREAKS = 16, SLOW_READER = 32, ABOVE = 64, DRAINS = 128 };
struct site {
	unsigned flags, begun, answered, gone;
	struct loop *loop;
	struct request *request;
	struct loop_task later;
	struct stream *tunnel;
	char *early;
	size_t early_n, early_size;
	bool closed;
};

static void no_news(void *ctx)
{
	(void)ctx;
}

static void end_tunnel(struct site *site)
{
	struct request *r = site->request;

	stream_close(site->tunnel, STREAM_CLOSE_ABORT);
	site->tunnel = NULL;
	site->request = NULL;
	request_end(r);
}

static void on_tunnel_readable(void *ctx)
{
	struct site *site = ctx;
	size_t n = 0;

	ADIT_ASSERT(site->early_n <= site->early_size);
	switch (stream_read(site->tunnel, site->early + site->early_n, site->early_size - site->early_n + 1, &n)) {
	case STREAM_IO_OK:
		site->early_n += n;
		return;
	case STREAM_IO_AGAIN:
		return;
	default:
		end_tunnel(site);
		return;
	}
}

static const struct stream_handler tunnel_stream = { on_tunnel_readable, no_news, no_news };

static void answer(struct site *site)
{
	struct request *r = site->request;
	struct response response;

	ADIT_ASSERT(r);
	site->answered++;
	if (r->fault == REASON_OK) {
		const char *p = r->credentials.p;
		size_t n = r->credentials.n;

		request_forget(r);
		for (size_t i = 0; i < n; i++)
			ADIT_ASSERT(p[i] == '\0');
	}
	if ((site->flags & ACCEPTS) && r->fault == REASON_OK && r->method == HEAD_CONNECT) {
		site->tunnel = request_accept(r);
		if (!site->tunnel) {
			site->request = NULL;
			request_end(r);
			return;
		}
		stream_attach(site->tunnel, &tunnel_stream, site);
		stream_resume(site->tunnel, STREAM_PAUSE_IDLE);
		return;
	}
	if (r->fault != REASON_OK)
		response = response_refusal(r->fault);
	else if (r->form == HEAD_FORM_ORIGIN || r->form == HEAD_FORM_ASTERISK)
		response = local_answer(r, false);
	else
		response = response_refusal(REASON_AUTH_REQUIRED);
	site->request = NULL;
	request_respond(r, &response);
}

static void on_later(void *ctx)
{
	answer(ctx);
}

static void *begin(void *ctx, struct request *r)
{
	struct site *site = ctx;

	ADIT_ASSERT(!site->request && !site->tunnel && site->begun == site->answered && site->gone == 0);
	site->begun++;
	site->request = r;
	if (site->flags & LATER)
		loop_post(site->loop, &site->later);
	else
		answer(site);
	return site;
}

static void gone(void *object, enum reason reason)
{
	struct site *site = object;

	(void)reason;
	ADIT_ASSERT(site->request && site->gone == 0);
	site->gone++;
	loop_unpost(site->loop, &site->later);
	if (site->tunnel)
		end_tunnel(site);
	site->request = NULL;
}

static void on_site_closed(void *ctx)
{
	((struct site *)ctx)->closed = true;
}

struct outcome {
	unsigned begun;
	char *out;
	size_t out_n;
	char *early;
	size_t early_n;
};

/* Small limits, so that short inputs reach them. */
static struct conf *small_conf(void)
{
	static const struct conf_option options[] = {
		{ "http.request_line", "256" }, { "http.head", "1KiB" }, { "http.fields", "8" },
	};
	static struct conf *conf;
	struct conf_errors errors = { 0 };

	if (!conf)
		conf = conf_load(NULL, options, sizeof(options) / sizeof(options[0]), &errors);
	ADIT_ASSERT(conf);
	return conf;
}

static struct outcome run(const uint8_t *wire, size_t n, unsigned flags, size_t step)
{
	static const struct http_handler handler = { begin, gone };
	struct conf *conf = small_conf();
	unsigned refs = conf->refs;
	struct client client = { .close_after_refusal = (flags & CLOSES) != 0 };
	struct site site = { .flags = flags, .loop = loop_new_manual(), .early = malloc(n + 1), .early_size = n };
	struct mem_stream *m;
	struct h1 *h;
	struct outcome outcome;

	ADIT_ASSERT(site.loop && site.early);
	loop_task_init(&site.later, on_later, &site);
	m = mem_stream_new(site.loop);
	m->above = (flags & ABOVE) != 0;
	m->window = (flags & SLOW_READER) ? 7 : SIZE_MAX;
	stream_on_closed(&m->base, on_site_closed, &site);
	h = h1_start(site.loop, &m->base, &client, conf, &handler, &site);
	ADIT_ASSERT(h);
	for (size_t at = 0; at < n; at += step) {
		mem_feed(m, wire + at, n - at < step ? n - at : step);
		loop_turn(site.loop);
		ADIT_ASSERT(m->queued_most <= RESPONSE_MAX); /* no answer before the last one was taken */
		mem_drain(m, SIZE_MAX);
		loop_turn(site.loop);
	}
	for (unsigned i = 0; i < n && !(flags & BREAKS); i++) { /* what is pipelined still waits for a slow reader */
		mem_drain(m, SIZE_MAX);
		loop_turn(site.loop);
	}
	if (flags & BREAKS)
		mem_break(m, STREAM_FAULT_RESET);
	if (flags & ENDS)
		mem_feed_eof(m, true);
	loop_turn(site.loop);
	if (flags & DRAINS)
		h1_drain(h);
	loop_advance(site.loop, conf->deadlines.head);
	h1_abort(h, REASON_SHUTDOWN);
	mem_drain(m, SIZE_MAX);
	loop_turn(site.loop);
	ADIT_ASSERT(site.closed && !site.request && !site.tunnel && site.gone <= 1);
	ADIT_ASSERT(site.answered + site.gone >= site.begun && site.answered <= site.begun);
	/* what went into the tunnel is the end of what was sent */
	ADIT_ASSERT(site.early_n <= n);
	if (!(flags & BREAKS))
		ADIT_ASSERT(site.early_n == 0 || memcmp(site.early, wire + n - site.early_n, site.early_n) == 0);
	outcome = (struct outcome){ site.begun, m->out, m->out_n, site.early, site.early_n };
	m->out = NULL;
	h1_free(h);
	mem_stream_free(m);
	ADIT_ASSERT(loop_held(site.loop) == 0 && conf->refs == refs);
	loop_free(site.loop);
	return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct outcome whole, cut;
	unsigned flags;
	size_t step;

	if (size < 2 || size > 16384)
		return 0;
	flags = data[0];
	step = data[1] == 0 ? 1 : data[1];
	cut = run(data + 2, size - 2, flags, step);
	if ((flags & CLOSES) && !(flags & (BREAKS | SLOW_READER))) {
		whole = run(data + 2, size - 2, flags, size);
		ADIT_ASSERT(whole.begun == cut.begun && whole.out_n == cut.out_n && whole.early_n == cut.early_n);
		ADIT_ASSERT(memcmp(whole.out, cut.out, cut.out_n) == 0);
		free(whole.out);
		free(whole.early);
	}
	free(cut.out);
	free(cut.early);
	return 0;
}
