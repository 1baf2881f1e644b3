/* The writer: the only thread that touches the files.
 *
 * It takes all that is queued, writes it as one batch and then calls done for each record, so that the price of a write
 * is shared by all that wait for it. What must not be lost is kept when it cannot be written: ends and refusals (CLOSE,
 * DENY), and opens that were let through without their record. Kept records are tried once a second, before
 * what has come since, and until then the files they wait for are left alone: so each file stays in order, and a disk
 * that is full costs little. An OPEN whose waiter was told no is
 * not kept: that access did not take place. A PROGRESS is not either: the next one says more. */
#include "audit/audit_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"

#include <time.h>

enum { SUMMARY_CHUNK = 32 };

static void record_done(struct record *r, enum reason verdict)
{
	audit_done_fn *done = r->done;

	r->done = NULL;
	if (done)
		done(r->ctx, verdict);
}

static bool record_is_kept(const struct record *r, bool failure_allows)
{
	if (r->line_n == 0)
		return false;
	return r->kind == AUDIT_CLOSE || r->kind == AUDIT_DENY || (r->kind == AUDIT_OPEN && failure_allows);
}

static void hold_or_drop(struct audit *a, struct record *r, bool failure_allows)
{
	static struct log_limit limit = LOG_LIMIT(60000);
	size_t max = atomic_load(&a->queue_max);

	/* While nothing is let through every request makes a DENY: they must not crowd out the ends of tunnels. */
	if (record_is_kept(r, failure_allows) && a->held_count < (r->kind == AUDIT_DENY ? (max + 1) / 2 : max)) {
		STAILQ_INSERT_TAIL(&a->held, r, entry);
		a->held_count++;
		return;
	}
	if (record_is_kept(r, failure_allows) && log_limit(&limit))
		log_err("audit: more records wait for the disk than audit.queue allows: records are lost");
	mem_free(r);
}

/* Writes the batch, after what is held when its time has come; every done is called, every record is freed or held. */
static void write_batch(struct audit *a, struct record_list *batch, bool at_once)
{
	bool allows = atomic_load(&a->failure_allows), retry = true;
	struct record_list work = STAILQ_HEAD_INITIALIZER(work);
	struct record *r;

	if (a->held_count > 0) {
		retry = at_once || a->sys->now_ms() >= a->retry_ms;
		if (retry) {
			STAILQ_CONCAT(&work, &a->held);
			a->held_count = 0;
		}
	}
	if (retry)
		a->retry_ms = a->sys->now_ms() + HELD_RETRY_MS;
	STAILQ_CONCAT(&work, batch);
	if (STAILQ_EMPTY(&work))
		return;
	directory_write(a->directory, &work, retry, allows);
	while ((r = STAILQ_FIRST(&work))) {
		STAILQ_REMOVE_HEAD(&work, entry);
		if (r->in_access && r->in_user) {
			stats_inc(STAT_AUDIT_RECORDS);
			record_done(r, REASON_OK);
			mem_free(r);
			continue;
		}
		if (!r->failed)
			stats_inc(STAT_AUDIT_FAILED);
		r->failed = true;
		record_done(r, allows ? REASON_OK : REASON_AUDIT_UNAVAILABLE);
		hold_or_drop(a, r, allows);
	}
}

static void switch_files(struct audit *a, struct directory *next)
{
	if (next) {
		directory_free(a->directory);
		a->directory = next;
	} else {
		directory_reopen(a->directory);
	}
}

/* All that is to do, taken in one piece. */
struct work {
	struct record_list before, after; /* the place where the files change */
	bool switches;
	struct directory *next;
	struct record_list strangers;
	bool stopping; /* nothing is queued any more */
};

/* With the lock held. The switch point must leave the queue here: it may be wanted again at any moment. */
static void take_work(struct audit *a, struct work *w)
{
	struct record *r;

	STAILQ_INIT(&w->before);
	STAILQ_INIT(&w->after);
	STAILQ_INIT(&w->strangers);
	w->switches = a->switch_queued;
	w->next = a->next;
	w->stopping = a->stopping;
	a->worked = !STAILQ_EMPTY(&a->queue) || !STAILQ_EMPTY(&a->stranger_queue);
	if (w->switches) {
		while ((r = STAILQ_FIRST(&a->queue)) != &a->switch_point) {
			STAILQ_REMOVE_HEAD(&a->queue, entry);
			STAILQ_INSERT_TAIL(&w->before, r, entry);
		}
		STAILQ_REMOVE_HEAD(&a->queue, entry);
	}
	STAILQ_CONCAT(&w->after, &a->queue);
	STAILQ_CONCAT(&w->strangers, &a->stranger_queue);
	a->count = a->stranger_count = 0;
	a->next = NULL;
	a->switch_queued = a->kicked = false;
}

static void write_strangers(struct audit *a, struct record_list *lines)
{
	struct record *r;
	size_t count = 0, written;

	if (STAILQ_EMPTY(lines))
		return;
	STAILQ_FOREACH(r, lines, entry)
		count++;
	written = directory_write_strangers(a->directory, lines);
	stats_add(STAT_AUDIT_RECORDS, (long long)written);
	stats_add(STAT_AUDIT_FAILED, (long long)(count - written));
	while ((r = STAILQ_FIRST(lines))) {
		STAILQ_REMOVE_HEAD(lines, entry);
		mem_free(r);
	}
}

static void write_summary_row(struct audit *a, const struct strangers_row *row)
{
	struct record_list one = STAILQ_HEAD_INITIALIZER(one);
	struct record *r = mem_alloc(sizeof(*r) + AUDIT_LINE_MAX);

	if (!r) {
		stats_inc(STAT_AUDIT_FAILED);
		return;
	}
	r->kind = AUDIT_DENY;
	r->line = (char *)(r + 1);
	r->line_n = format_summary(r->line, AUDIT_LINE_MAX, atomic_load(&a->node), 0, row->since_us, row->reason,
				   row->has_prefix ? &row->prefix : NULL, row->count);
	STAILQ_INSERT_TAIL(&one, r, entry);
	write_strangers(a, &one);
}

static void write_summary(struct audit *a, bool now)
{
	struct strangers_row rows[SUMMARY_CHUNK];
	uint64_t due = strangers_due_ms(a->strangers);
	size_t n;

	if (due == 0 || (!now && a->sys->now_ms() < due))
		return;
	do {
		n = strangers_take(a->strangers, rows, SUMMARY_CHUNK);
		for (size_t i = 0; i < n; i++)
			write_summary_row(a, &rows[i]);
	} while (n == SUMMARY_CHUNK);
}

/* Until something is to do. With the lock held. */
static void wait_for_work(struct audit *a)
{
	uint64_t due = strangers_due_ms(a->strangers), now = a->sys->now_ms(), ms = 0;
	struct timespec until;

	if (due > 0)
		ms = due > now ? due - now : 1;
	if (a->held_count > 0) {
		uint64_t left = a->retry_ms > now ? a->retry_ms - now : 1;

		ms = ms == 0 || left < ms ? left : ms;
	}
	/* After work a nap first, then sleep: so a busy writer is woken for those who wait, and for nobody else. */
	if (a->worked && (ms == 0 || ms > NAP_MS))
		ms = NAP_MS;
	a->napping = a->worked;
	a->idle = !a->worked;
	a->worked = false;
	if (ms == 0) {
		pthread_cond_wait(&a->changed, &a->lock);
	} else {
		audit_until(&until, ms);
		pthread_cond_timedwait(&a->changed, &a->lock, &until);
	}
	a->idle = a->napping = false;
}

static void drop_held(struct audit *a)
{
	struct record *r;

	if (a->held_count > 0)
		log_err("audit: %zu records could not be written before the end and are lost", a->held_count);
	while ((r = STAILQ_FIRST(&a->held))) {
		STAILQ_REMOVE_HEAD(&a->held, entry);
		mem_free(r);
	}
	a->held_count = 0;
}

static void do_work(struct audit *a, struct work *w)
{
	if (w->switches) {
		write_batch(a, &w->before, w->stopping);
		switch_files(a, w->next);
	}
	write_batch(a, &w->after, w->switches || w->stopping);
	write_strangers(a, &w->strangers);
	write_summary(a, w->stopping);
}

void *writer_main(void *ctx)
{
	struct audit *a = ctx;
	struct work work = { .stopping = false };

	pthread_mutex_lock(&a->lock);
	while (!work.stopping) {
		if (STAILQ_EMPTY(&a->queue) && STAILQ_EMPTY(&a->stranger_queue) && !a->stopping && !a->kicked)
			wait_for_work(a);
		take_work(a, &work);
		pthread_mutex_unlock(&a->lock);
		do_work(a, &work);
		pthread_mutex_lock(&a->lock);
	}
	pthread_mutex_unlock(&a->lock);
	drop_held(a);
	pthread_mutex_lock(&a->lock);
	a->ended = true;
	pthread_cond_broadcast(&a->changed);
	pthread_mutex_unlock(&a->lock);
	return NULL;
}
