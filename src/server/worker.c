/* A worker.
 *
 * The main thread speaks to it in letters; everything else here runs on the worker's own thread. It stops by itself
 * when it drains and neither a connection nor anything else that holds the loop is left. */
#include "server/worker.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"
#include "server/conn.h"
#include "server/listener.h"

#include <signal.h>
#include <unistd.h>

enum { DRAIN_LOOK_MS = 20 };

/* One address of the worker. */
struct door {
	struct worker *worker;
	int fd; /* until listening */
	struct addr address; /* as configured */
	struct listener *listener;
	bool close_after_refusal;
};

struct worker {
	struct worker_parts parts;
	struct loop *loop;
	struct dns_hosts *hosts;
	struct door *doors;
	size_t door_count;
	struct deadline drain_look;
	struct loop *main;
	struct loop_letter news; /* of the end, to the main thread */
	loop_fn *ended;
	void *ended_ctx;
	pthread_t thread;
	bool started;
};

void snapshot_drop(struct snapshot *s)
{
	conf_unref(s->conf);
	policy_unref(s->policy);
	tls_context_unref(s->tls);
	if (s->hosts)
		dns_hosts_unref(s->hosts);
	*s = (struct snapshot){ 0 };
}

static void on_accept(void *ctx, int fd, const struct addr *peer)
{
	static struct log_limit limit = LOG_LIMIT(10000);
	struct door *door = ctx;
	struct worker_parts *w = &door->worker->parts;
	enum reason verdict = limits_enter(w->limits, w->env.conf, peer);
	char client[ADDR_TEXT_SIZE];

	if (verdict == REASON_OK) {
		conn_accept(w, fd, peer, door->close_after_refusal);
		return;
	}
	close(fd);
	stats_reason(verdict);
	if (log_limit(&limit))
		log_notice("%s: %s: client %s", reason_name(verdict), reason_row(verdict)->sentence, addr_text(peer, client));
}

/* What the configuration says of the addresses that are open. */
static void follow_listen(struct worker *w)
{
	const struct conf *conf = w->parts.env.conf;

	for (size_t i = 0; i < w->door_count; i++)
		for (size_t j = 0; j < conf->listen_count; j++)
			if (addr_equal(&w->doors[i].address, &conf->listen[j].address))
				w->doors[i].close_after_refusal = conf->listen[j].close_after_refusal;
}

static void on_drain_look(void *ctx)
{
	struct worker *w = ctx;

	if (TAILQ_EMPTY(&w->parts.conns) && loop_held(w->loop) == 0)
		loop_stop(w->loop);
	else if (!deadline_set(&w->drain_look, DRAIN_LOOK_MS))
		loop_stop(w->loop);
}

static void *run(void *ctx)
{
	struct worker *w = ctx;

	loop_run(w->loop);
	loop_send(w->main, &w->news, w->ended, w->ended_ctx);
	return NULL;
}

struct worker *worker_new(const struct shared *shared, struct snapshot *snapshot, const int *listeners, size_t count)
{
	struct worker *w = mem_alloc(sizeof(*w));
	struct tunnel_env *env;

	if (!w)
		return NULL;
	env = &w->parts.env;
	TAILQ_INIT(&w->parts.conns);
	w->doors = mem_array(count, sizeof(*w->doors));
	w->loop = loop_new();
	w->parts.wire = mem_alloc(sizeof(*w->parts.wire));
	env->buffer_bytes = snapshot->conf->tunnel.buffer_bytes;
	env->buffer = mem_alloc(env->buffer_bytes);
	if (w->loop)
		env->dns = dns_new(w->loop, snapshot->conf, dns_hosts_ref(snapshot->hosts));
	if (!w->doors || !w->loop || !w->parts.wire || !env->buffer || !env->dns) {
		worker_free(w);
		return NULL;
	}
	deadline_init(&w->drain_look, w->loop, on_drain_look, w);
	env->loop = w->loop;
	env->auth = shared->auth;
	env->audit = shared->audit;
	env->conf = snapshot->conf;
	env->policy = snapshot->policy;
	w->parts.tls = snapshot->tls;
	w->hosts = snapshot->hosts;
	w->parts.limits = shared->limits;
	*snapshot = (struct snapshot){ 0 };
	w->door_count = count;
	for (size_t i = 0; i < count; i++)
		w->doors[i] = (struct door){ .worker = w, .fd = listeners[i], .address = env->conf->listen[i].address };
	follow_listen(w);
	return w;
}

bool worker_start(struct worker *w, struct loop *main, loop_fn *ended, void *ctx)
{
	sigset_t all, before;

	w->main = main;
	w->ended = ended;
	w->ended_ctx = ctx;

	for (size_t i = 0; i < w->door_count; i++) {
		struct door *door = &w->doors[i];

		door->listener = listener_start(w->loop, door->fd, on_accept, door);
		if (!door->listener)
			return false;
		door->fd = -1;
	}
	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	w->started = pthread_create(&w->thread, NULL, run, w) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (w->started)
		pthread_setname_np(w->thread, "adit-worker");
	return w->started;
}

static void close_doors(struct worker *w)
{
	for (size_t i = 0; i < w->door_count; i++) {
		if (w->doors[i].listener)
			listener_stop(w->doors[i].listener);
		else if (w->doors[i].fd >= 0)
			close(w->doors[i].fd);
	}
	w->door_count = 0;
}

static void each_conn(struct worker *w, void (*fn)(struct conn *c))
{
	struct conn *next;

	/* a connection is freed by the graveyard only, never inside fn */
	for (struct conn *c = TAILQ_FIRST(&w->parts.conns); c; c = next) {
		next = conn_next(c);
		fn(c);
	}
}

static void abort_conn(struct conn *c)
{
	conn_abort(c, REASON_SHUTDOWN);
}

/* --- letters --- */

struct order {
	struct loop_letter letter;
	struct worker *worker;
	struct snapshot snapshot;
};

static struct order *order_new(struct worker *w)
{
	struct order *o = mem_alloc(sizeof(*o));

	if (o)
		o->worker = w;
	return o;
}

static void on_drain_order(void *ctx)
{
	struct order *o = ctx;
	struct worker *w = o->worker;

	mem_free(o);
	if (w->parts.env.draining)
		return;
	close_doors(w); /* what was queued is still served as a connection */
	w->parts.env.draining = true;
	each_conn(w, conn_drain);
	on_drain_look(w);
}

static void on_abort_order(void *ctx)
{
	struct order *o = ctx;
	struct worker *w = o->worker;

	mem_free(o);
	each_conn(w, abort_conn);
}

static void on_adopt_order(void *ctx)
{
	struct order *o = ctx;
	struct worker *w = o->worker;
	struct tunnel_env *env = &w->parts.env;
	struct snapshot old = { env->conf, env->policy, NULL, w->hosts };

	env->conf = o->snapshot.conf;
	env->policy = o->snapshot.policy;
	if (o->snapshot.tls) {
		old.tls = w->parts.tls;
		w->parts.tls = o->snapshot.tls;
	}
	w->hosts = o->snapshot.hosts;
	follow_listen(w);
	dns_reconfigure(env->dns, env->conf, dns_hosts_ref(w->hosts));
	snapshot_drop(&old);
	mem_free(o);
}

/* Without memory for a letter a stop must still work: the loop is stopped as it is. */
static void order(struct worker *w, loop_fn *fn)
{
	struct order *o = order_new(w);

	if (o)
		loop_send(w->loop, &o->letter, fn, o);
	else
		loop_stop(w->loop);
}

void worker_drain(struct worker *w)
{
	if (w->started)
		order(w, on_drain_order);
}

void worker_abort(struct worker *w)
{
	if (w->started)
		order(w, on_abort_order);
}

struct order *worker_adoption(struct worker *w)
{
	return order_new(w);
}

void worker_adopt(struct order *o, const struct snapshot *snapshot)
{
	o->snapshot = *snapshot;
	loop_send(o->worker->loop, &o->letter, on_adopt_order, o);
}

void worker_join(struct worker *w)
{
	if (w->started)
		pthread_join(w->thread, NULL);
	w->started = false;
}

void worker_free(struct worker *w)
{
	struct snapshot snapshot;

	if (!w)
		return;
	snapshot = (struct snapshot){ w->parts.env.conf, w->parts.env.policy, w->parts.tls, w->hosts };
	close_doors(w);
	deadline_fini(&w->drain_look);
	if (w->parts.env.dns)
		dns_free(w->parts.env.dns);
	if (w->loop)
		loop_free(w->loop);
	snapshot_drop(&snapshot);
	mem_free(w->doors);
	mem_free(w->parts.wire);
	mem_free(w->parts.env.buffer);
	mem_free(w);
}
