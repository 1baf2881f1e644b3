/* The service as the rest of the proxy sees it: records go into a bounded queue, in any thread, without waiting.
 *
 * A record is formatted by its submitter, so that the one writer only writes. What is hard is what happens at the
 * bounds: opens stop at the length of the queue while ends go on to twice that (each of them belongs to an open that
 * was admitted); strangers have a queue of their own and cannot take a user's place; and under on_failure_allow a
 * waiter must be answered even when there is no room for its record, hence records without a line. */
#include "audit/audit_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

enum { AUDIT_MAGIC = OBJ_MAGIC('a', 'u', 'd', 't'), QUEUE_DEFAULT = 8192, FULL_SAY_MS = 10000 };

struct node {
	SLIST_ENTRY(node) entry;
	char name[];
};

/* Names are never freed before the service is: another thread may be formatting with the one of before. */
static bool set_node(struct audit *a, const char *name)
{
	const char *now = atomic_load(&a->node);
	size_t n;
	struct node *node;

	name = name ? name : "";
	if (now && strcmp(now, name) == 0)
		return true;
	n = strlen(name) + 1;
	node = mem_alloc(sizeof(*node) + n);
	if (!node)
		return false;
	memcpy(node->name, name, n);
	SLIST_INSERT_HEAD(&a->nodes, node, entry);
	atomic_store(&a->node, node->name);
	return true;
}

static void apply(struct audit *a, const struct audit_config *config)
{
	atomic_store(&a->failure_allows, config->on_failure_allow);
	atomic_store(&a->queue_max, config->queue ? config->queue : QUEUE_DEFAULT);
}

static void audit_give_back(struct audit *a)
{
	struct node *node;

	directory_free(a->next);
	directory_free(a->directory);
	strangers_free(a->strangers);
	while ((node = SLIST_FIRST(&a->nodes))) {
		SLIST_REMOVE_HEAD(&a->nodes, entry);
		mem_free(node);
	}
	pthread_cond_destroy(&a->changed);
	pthread_mutex_destroy(&a->lock);
	OBJ_FINI(a);
	mem_free(a);
}

static bool start_writer(struct audit *a)
{
	sigset_t all, before;
	bool ok;

	/* Signals are the main thread's; SIGXFSZ becomes EFBIG, which is an answer. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ok = pthread_create(&a->thread, NULL, writer_main, a) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ok)
		pthread_setname_np(a->thread, "adit-audit");
	return ok;
}

struct audit *audit_new_on(const struct audit_config *config, const struct audit_sys *sys, char *error,
			   size_t error_size)
{
	struct audit *a = mem_alloc(sizeof(*a));
	pthread_condattr_t attr;

	if (!a) {
		snprintf(error, error_size, "out of memory");
		return NULL;
	}
	OBJ_INIT(a, AUDIT_MAGIC);
	a->sys = sys;
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->changed, &attr);
	pthread_condattr_destroy(&attr);
	STAILQ_INIT(&a->queue);
	STAILQ_INIT(&a->stranger_queue);
	STAILQ_INIT(&a->held);
	SLIST_INIT(&a->nodes);
	apply(a, config);
	a->directory = directory_new(config, sys, error, error_size);
	if (!a->directory)
		goto fail;
	a->strangers = strangers_new();
	if (!a->strangers || !set_node(a, config->node)) {
		snprintf(error, error_size, "out of memory");
		goto fail;
	}
	if (start_writer(a))
		return a;
	snprintf(error, error_size, "the writer's thread could not be started");
fail:
	audit_give_back(a);
	return NULL;
}

struct audit *audit_new(const struct audit_config *config, char *error, size_t error_size)
{
	return audit_new_on(config, &audit_sys_kernel, error, error_size);
}

/* Answers what the writer did not take, because it hangs. With the lock held. */
static void refuse_queue(struct audit *a)
{
	struct record_list queue = STAILQ_HEAD_INITIALIZER(queue);
	struct record *r;

	STAILQ_CONCAT(&queue, &a->queue);
	a->switch_queued = false;
	pthread_mutex_unlock(&a->lock);
	while ((r = STAILQ_FIRST(&queue))) {
		STAILQ_REMOVE_HEAD(&queue, entry);
		if (r == &a->switch_point)
			continue;
		stats_inc(STAT_AUDIT_FAILED);
		if (r->done)
			r->done(r->ctx, REASON_AUDIT_UNAVAILABLE);
		mem_free(r);
	}
	pthread_mutex_lock(&a->lock);
}

void audit_until(struct timespec *until, uint64_t ms)
{
	clock_gettime(CLOCK_MONOTONIC, until);
	until->tv_sec += (time_t)(ms / 1000);
	until->tv_nsec += (long)(ms % 1000) * 1000000;
	if (until->tv_nsec >= 1000000000) {
		until->tv_sec++;
		until->tv_nsec -= 1000000000;
	}
}

bool audit_stop(struct audit *a)
{
	struct timespec until;
	bool ended, join;

	OBJ_CHECK(a, AUDIT_MAGIC);
	audit_until(&until, a->sys->stop_ms);
	pthread_mutex_lock(&a->lock);
	a->stopping = true;
	pthread_cond_broadcast(&a->changed);
	while (!a->ended)
		if (pthread_cond_timedwait(&a->changed, &a->lock, &until) == ETIMEDOUT)
			break;
	ended = a->ended;
	join = ended && !a->joined;
	a->joined = ended;
	if (!ended)
		refuse_queue(a);
	pthread_mutex_unlock(&a->lock);
	if (join)
		pthread_join(a->thread, NULL);
	return ended;
}

void audit_free(struct audit *a)
{
	if (a && audit_stop(a))
		audit_give_back(a);
}

/* With the lock held; unlocks. A wake-up costs more than a record: ends of tunnels come along with the next one that
 * somebody waits for. */
static void wake_and_unlock(struct audit *a, bool urgent)
{
	bool wake = a->idle || (a->napping && urgent);

	if (wake)
		a->idle = a->napping = false; /* once is enough */
	pthread_mutex_unlock(&a->lock);
	if (wake)
		pthread_cond_signal(&a->changed);
}

void audit_kick(struct audit *a)
{
	pthread_mutex_lock(&a->lock);
	a->kicked = true;
	wake_and_unlock(a, true);
}

/* The files change behind all that is queued by now. With the lock held; unlocks. */
static void switch_here(struct audit *a)
{
	if (a->switch_queued)
		STAILQ_REMOVE(&a->queue, &a->switch_point, record, entry);
	STAILQ_INSERT_TAIL(&a->queue, &a->switch_point, entry);
	a->switch_queued = true;
	wake_and_unlock(a, true);
}

void audit_reopen(struct audit *a)
{
	OBJ_CHECK(a, AUDIT_MAGIC);
	pthread_mutex_lock(&a->lock);
	if (a->stopping)
		pthread_mutex_unlock(&a->lock);
	else
		switch_here(a);
}

bool audit_reconfigure(struct audit *a, const struct audit_config *config, char *error, size_t error_size)
{
	struct directory *next, *unused;

	OBJ_CHECK(a, AUDIT_MAGIC);
	next = directory_new(config, a->sys, error, error_size);
	if (!next)
		return false;
	pthread_mutex_lock(&a->lock);
	if (a->stopping || !set_node(a, config->node)) {
		snprintf(error, error_size, a->stopping ? "the writer was stopped" : "out of memory");
		pthread_mutex_unlock(&a->lock);
		directory_free(next);
		return false;
	}
	apply(a, config);
	unused = a->next;
	a->next = next;
	switch_here(a);
	directory_free(unused);
	return true;
}

static struct record *record_new(const char *line, size_t line_n, const char *user)
{
	size_t user_n = user ? strlen(user) : 0;
	struct record *r = mem_alloc(sizeof(*r) + line_n + user_n);

	if (!r)
		return NULL;
	r->line = (char *)(r + 1);
	r->line_n = line_n;
	r->user_n = user_n;
	/* cppcheck-suppress uninitvar ; so many bytes of it as were formatted */
	memcpy(r->line, line, line_n);
	if (user_n > 0)
		memcpy(r->line + line_n, user, user_n);
	return r;
}

/* Refusals of strangers, whatever becomes of them, are no reason to refuse anybody anything. */
static void submit_stranger(struct audit *a, const struct audit_event *event)
{
	uint64_t now = a->sys->now_ms();
	char line[AUDIT_LINE_MAX];
	struct record *r = NULL;
	bool fits;

	if (strangers_admit(a->strangers, now, event->client, event->reason))
		r = record_new(line, audit_format(event, atomic_load(&a->node), line, sizeof(line)), NULL);
	if (r)
		r->kind = event->kind;
	pthread_mutex_lock(&a->lock);
	fits = r && !a->stopping && a->stranger_count < STRANGERS_QUEUE;
	if (fits) {
		STAILQ_INSERT_TAIL(&a->stranger_queue, r, entry);
		a->stranger_count++;
		wake_and_unlock(a, false);
		return;
	}
	pthread_mutex_unlock(&a->lock);
	mem_free(r);
	if (strangers_count(a->strangers, now, clock_wall_us(), event->client, event->reason))
		audit_kick(a);
}

/* Room for one more of its kind? With the lock held. */
static bool queue_has_room(const struct audit *a, enum audit_kind kind)
{
	size_t max = atomic_load(&a->queue_max);

	return a->count < (kind == AUDIT_CLOSE || kind == AUDIT_DENY ? 2 * max : max);
}

static void say_full(void)
{
	static struct log_limit limit = LOG_LIMIT(FULL_SAY_MS);

	if (log_limit(&limit))
		log_err("audit: as many records wait for the disk as audit.queue allows: further ones are refused");
}

enum reason audit_submit(struct audit *a, const struct audit_event *event, audit_done_fn *done, void *ctx)
{
	char line[AUDIT_LINE_MAX];
	struct record *r;
	bool room, stopping;

	OBJ_CHECK(a, AUDIT_MAGIC);
	if (!event->user) {
		ADIT_ASSERT(event->kind == AUDIT_DENY && !done);
		submit_stranger(a, event);
		return REASON_OK;
	}
	r = record_new(line, audit_format(event, atomic_load(&a->node), line, sizeof(line)), event->user);
	if (!r) {
		stats_inc(STAT_AUDIT_FAILED);
		return REASON_NO_MEMORY;
	}
	r->kind = event->kind;
	r->done = done;
	r->ctx = ctx;
	pthread_mutex_lock(&a->lock);
	room = queue_has_room(a, event->kind);
	stopping = a->stopping;
	if (stopping || (!room && !(done && atomic_load(&a->failure_allows)))) {
		pthread_mutex_unlock(&a->lock);
		stats_inc(STAT_AUDIT_FAILED);
		mem_free(r);
		if (!stopping)
			say_full();
		return REASON_AUDIT_UNAVAILABLE;
	}
	if (room)
		a->count++;
	else
		r->line_n = r->user_n = 0;
	STAILQ_INSERT_TAIL(&a->queue, r, entry);
	wake_and_unlock(a, done != NULL || a->count >= NAP_RECORDS);
	return REASON_OK;
}
