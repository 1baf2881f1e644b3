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
struct gate {
	TAILQ_ENTRY(gate) entry;
	struct worker *worker;
	struct addr address; /* with its real port */
	int fd; /* until there is a listener */
	struct listener *listener;
	struct listen_options options;
};
TAILQ_HEAD(gates, gate);

struct worker {
	struct worker_parts parts;
	struct loop *loop;
	struct dns_hosts *hosts;
	struct gates gates, closing;
	struct adoption *answering; /* waits for what closes: its address may be wanted again by the next one */
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
	struct gate *gate = ctx;
	struct worker_parts *w = &gate->worker->parts;
	enum reason verdict = limits_enter(w->limits, w->env.conf, peer);
	char client[ADDR_TEXT_SIZE];

	if (verdict == REASON_OK) {
		conn_accept(w, fd, peer, &gate->options);
		return;
	}
	close(fd);
	stats_reason(verdict);
	if (log_limit(&limit))
		log_notice("%s: %s: client %s", reason_name(verdict), reason_row(verdict)->sentence, addr_text(peer, client));
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

struct worker *worker_new(const struct shared *shared, struct snapshot *snapshot)
{
	struct worker *w = mem_alloc(sizeof(*w));
	struct tunnel_env *env;

	if (!w)
		return NULL;
	env = &w->parts.env;
	TAILQ_INIT(&w->parts.conns);
	TAILQ_INIT(&w->gates);
	TAILQ_INIT(&w->closing);
	tunnels_init(env);
	w->loop = loop_new();
	w->parts.wire = mem_alloc(sizeof(*w->parts.wire));
	env->buffer_bytes = snapshot->conf->tunnel.buffer_bytes;
	/* as large as a reload may make it: pages that are not used cost nothing */
	env->buffer = mem_alloc(CONF_TUNNEL_BUFFER_MOST);
	if (w->loop) {
		env->dns = dns_new(w->loop, snapshot->conf, dns_hosts_ref(snapshot->hosts));
		env->pool = pool_new(w->loop);
	}
	if (!w->loop || !w->parts.wire || !env->buffer || !env->dns || !env->pool) {
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
	return w;
}

bool worker_start(struct worker *w, struct loop *main, loop_fn *ended, void *ctx)
{
	sigset_t all, before;

	w->main = main;
	w->ended = ended;
	w->ended_ctx = ctx;
	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	w->started = pthread_create(&w->thread, NULL, run, w) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (w->started)
		pthread_setname_np(w->thread, "adit-worker");
	return w->started;
}

/* Where nobody waits, or nobody can be served any more. */
static void gate_drop(struct gate *gate)
{
	if (gate->listener)
		listener_stop(gate->listener);
	else if (gate->fd >= 0)
		close(gate->fd);
	mem_free(gate);
}

static void drop_gates(struct gates *gates)
{
	struct gate *gate;

	while ((gate = TAILQ_FIRST(gates))) {
		TAILQ_REMOVE(gates, gate, entry);
		gate_drop(gate);
	}
}

static void answer(struct adoption *a);

static void on_gate_closed(void *ctx)
{
	struct gate *gate = ctx;
	struct worker *w = gate->worker;

	TAILQ_REMOVE(&w->closing, gate, entry);
	mem_free(gate);
	if (TAILQ_EMPTY(&w->closing) && w->answering) {
		answer(w->answering);
		w->answering = NULL;
	}
}

/* Who waits there is let in first. */
static void gate_close(struct gate *gate)
{
	TAILQ_REMOVE(&gate->worker->gates, gate, entry);
	TAILQ_INSERT_TAIL(&gate->worker->closing, gate, entry);
	listener_close(gate->listener, on_gate_closed);
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

/* --- orders to stop --- */

struct order {
	struct loop_letter letter;
	struct worker *worker;
};

static void on_drain_order(void *ctx)
{
	struct order *o = ctx;
	struct worker *w = o->worker;

	mem_free(o);
	if (w->parts.env.draining)
		return;
	w->parts.env.draining = true;
	while (!TAILQ_EMPTY(&w->gates))
		gate_close(TAILQ_FIRST(&w->gates));
	each_conn(w, conn_drain);
	pool_empty(w->parts.env.pool);
	on_drain_look(w);
}

static void on_abort_order(void *ctx)
{
	struct order *o = ctx;
	struct worker *w = o->worker;

	mem_free(o);
	each_conn(w, abort_conn);
}

/* Without memory for a letter a stop must still work: the loop is stopped as it is. */
static void order(struct worker *w, loop_fn *fn)
{
	struct order *o = mem_alloc(sizeof(*o));

	if (o) {
		o->worker = w;
		loop_send(w->loop, &o->letter, fn, o);
	} else {
		loop_stop(w->loop);
	}
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

/* --- going over to a new configuration --- */

struct adoption {
	struct loop_letter letter;
	struct worker *worker;
	struct snapshot snapshot; /* on the way back: the one before */
	struct gates fresh;
	struct wanted {
		struct addr real;
		struct listen_options options;
	} *wanted;
	size_t wanted_count;
	bool failed;
	loop_fn *done;
	void *ctx;
};

struct adoption *adoption_new(struct worker *w, size_t addresses)
{
	struct adoption *a = mem_alloc(sizeof(*a));

	if (!a)
		return NULL;
	a->worker = w;
	TAILQ_INIT(&a->fresh);
	a->wanted = mem_array(addresses, sizeof(*a->wanted));
	if (!a->wanted) {
		mem_free(a);
		return NULL;
	}
	return a;
}

bool adoption_listen(struct adoption *a, const struct addr *real, const struct listen_options *options, int fd)
{
	struct gate *gate;

	a->wanted[a->wanted_count++] = (struct wanted){ *real, *options };
	if (fd < 0)
		return true;
	gate = mem_alloc(sizeof(*gate));
	if (!gate) {
		close(fd);
		return false;
	}
	*gate = (struct gate){ .worker = a->worker, .address = *real, .fd = fd };
	TAILQ_INSERT_TAIL(&a->fresh, gate, entry);
	return true;
}

void *adoption_ctx(const struct adoption *a)
{
	return a->ctx;
}

bool adoption_good(const struct adoption *a)
{
	return !a->failed;
}

void adoption_free(struct adoption *a)
{
	if (!a)
		return;
	drop_gates(&a->fresh);
	snapshot_drop(&a->snapshot);
	mem_free(a->wanted);
	mem_free(a);
}

/* False: the name servers in force stay, for want of memory. */
static bool swap_snapshot(struct worker *w, struct snapshot *s)
{
	struct tunnel_env *env = &w->parts.env;
	struct snapshot old = { env->conf, env->policy, s->tls ? w->parts.tls : NULL, s->hosts ? w->hosts : NULL };
	bool good = true;

	env->conf = s->conf;
	env->policy = s->policy;
	env->buffer_bytes = s->conf->tunnel.buffer_bytes;
	if (s->tls)
		w->parts.tls = s->tls;
	if (s->hosts) {
		w->hosts = s->hosts;
		good = dns_reconfigure(env->dns, env->conf, dns_hosts_ref(w->hosts));
	}
	*s = old;
	return good;
}

/* Those that stay follow what is said of them now; the others close. */
static void sift_gates(struct worker *w, const struct adoption *a)
{
	struct gate *gate, *next;

	for (gate = TAILQ_FIRST(&w->gates); gate; gate = next) {
		const struct wanted *wanted = NULL;

		next = TAILQ_NEXT(gate, entry);
		for (size_t i = 0; i < a->wanted_count && !wanted; i++)
			if (addr_equal(&a->wanted[i].real, &gate->address))
				wanted = &a->wanted[i];
		if (wanted) {
			gate->options = wanted->options;
			continue;
		}
		gate_close(gate);
	}
}

/* False: at least one could not be opened for want of memory, and is closed. */
static bool open_gates(struct worker *w, struct gates *fresh)
{
	bool good = true;
	struct gate *gate;

	while ((gate = TAILQ_FIRST(fresh))) {
		TAILQ_REMOVE(fresh, gate, entry);
		gate->listener = listener_start(w->loop, gate->fd, on_accept, gate);
		if (gate->listener) {
			TAILQ_INSERT_TAIL(&w->gates, gate, entry);
		} else {
			gate_drop(gate);
			good = false;
		}
	}
	return good;
}

static void answer(struct adoption *a)
{
	loop_send(a->worker->main, &a->letter, a->done, a);
}

static void on_adoption(void *ctx)
{
	struct adoption *a = ctx;
	struct worker *w = a->worker;

	a->failed = !swap_snapshot(w, &a->snapshot);
	if (!w->parts.env.draining) {
		a->failed = !open_gates(w, &a->fresh) || a->failed;
		sift_gates(w, a);
	}
	tunnels_review(&w->parts.env);
	if (TAILQ_EMPTY(&w->closing))
		answer(a);
	else
		w->answering = a;
}

void adoption_send(struct adoption *a, struct snapshot *snapshot, loop_fn *done, void *ctx)
{
	a->snapshot = *snapshot;
	*snapshot = (struct snapshot){ 0 };
	a->done = done;
	a->ctx = ctx;
	loop_send(a->worker->loop, &a->letter, on_adoption, a);
}

/* --- the end --- */

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
	drop_gates(&w->gates);
	drop_gates(&w->closing);
	adoption_free(w->answering);
	deadline_fini(&w->drain_look);
	pool_free(w->parts.env.pool);
	if (w->parts.env.dns)
		dns_free(w->parts.env.dns);
	if (w->loop)
		loop_free(w->loop);
	snapshot_drop(&snapshot);
	mem_free(w->parts.wire);
	mem_free(w->parts.env.buffer);
	mem_free(w);
}
