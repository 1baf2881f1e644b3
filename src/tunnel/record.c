/* From an access to its records.
 *
 * The writer calls back on its own thread, maybe long after the request gave up waiting. So the wait is an object of
 * its own: the writer's call turns it into a letter to the loop, and whoever is last frees it there. */
#include "tunnel/record.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"

struct record_wait {
	struct loop *loop;
	struct loop_letter letter;
	enum reason verdict;
	record_done_fn *done; /* NULL: given up */
	void *ctx;
};

static struct audit_event event_of(const struct access *a, enum audit_kind kind)
{
	struct audit_event e = {
		.kind = kind,
		.id = a->id,
		.connection = a->client->id,
		.client = &a->client->address,
		.listener = &a->client->listener,
		.tls_version = a->client->tls_version,
		.tls_cipher = a->client->tls_cipher,
		.tls_sni = a->client->tls_sni,
		.protocol = a->protocol,
		.method = a->method,
		.target = a->target,
		.rule = a->rule,
	};

	if (a->authenticated)
		e.user = a->user;
	else if (a->user)
		e.claimed_user = slice_of(a->user);
	if (a->address.len > 0)
		e.address = &a->address;
	if (a->local.len > 0)
		e.local = &a->local;
	return e;
}

static void on_letter(void *ctx)
{
	struct record_wait *w = ctx;

	loop_release(w->loop);
	if (w->done)
		w->done(w->ctx, w->verdict);
	mem_free(w);
}

/* On the writer's thread. */
static void on_written(void *ctx, enum reason verdict)
{
	struct record_wait *w = ctx;

	w->verdict = verdict;
	loop_send(w->loop, &w->letter, on_letter, w);
}

enum reason record_open(struct audit *audit, struct loop *loop, const struct access *a, record_done_fn *done, void *ctx,
	struct record_wait **wait)
{
	struct audit_event e = event_of(a, AUDIT_OPEN);
	struct record_wait *w = mem_alloc(sizeof(*w));
	enum reason verdict;

	if (!w)
		return REASON_NO_MEMORY;
	*w = (struct record_wait){ .loop = loop, .done = done, .ctx = ctx };
	e.status = a->forwarded ? 0 : 200;
	loop_hold(loop); /* before the writer can answer */
	verdict = audit_submit(audit, &e, on_written, w);
	if (verdict != REASON_OK) {
		loop_release(loop);
		mem_free(w);
		return verdict;
	}
	*wait = w;
	return REASON_OK;
}

void record_give_up(struct record_wait *wait)
{
	if (wait)
		wait->done = NULL;
}

/* Records that nobody waits for: when they are refused the audit counts and says so itself. */
static void submit(struct audit *audit, const struct audit_event *e)
{
	enum reason ignored = audit_submit(audit, e, NULL, NULL);

	(void)ignored;
}

static void put_count(struct audit_event *e, const struct access *a, const struct relay_count *count,
	unsigned long long now_ms)
{
	e->bytes_up = count->up;
	e->bytes_down = count->down;
	e->duration_ms = now_ms - a->started_ms;
}

void record_progress(struct audit *audit, const struct access *a, const struct relay_count *count,
	unsigned long long now_ms)
{
	struct audit_event e = event_of(a, AUDIT_PROGRESS);

	put_count(&e, a, count, now_ms);
	submit(audit, &e);
}

void record_close(struct audit *audit, const struct access *a, enum reason reason, int status,
	const struct relay_count *count, unsigned long long now_ms)
{
	struct audit_event e = event_of(a, AUDIT_CLOSE);

	e.reason = reason;
	e.status = status;
	if (count->client_ended)
		e.half_close = count->client_truncated ? "truncated" : "clean";
	put_count(&e, a, count, now_ms);
	submit(audit, &e);
}

void record_deny(struct audit *audit, const struct access *a, enum reason reason)
{
	struct audit_event e = event_of(a, AUDIT_DENY);

	e.reason = reason;
	e.status = reason_row(reason)->status;
	submit(audit, &e);
}
