/* The main thread: start in the right order, then signals, reload, watched files, stop in the right order.
 *
 * Start: descriptors' limit -> bind -> drop privileges -> files (keys, htpasswd, audit) -> services -> workers. What
 * fails fails before anything is served. Stop: doors -> tunnels (drain deadline) -> workers -> auth -> audit -> memory;
 * a service ends before the loops that its answers go to. */
#include "adit/server/server.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"
#include "server/listener.h"
#include "server/priv.h"
#include "server/watch.h"
#include "server/worker.h"

#include <errno.h>
#include <event2/event.h>
#include <ifaddrs.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

enum { WATCH_MS = 1000, ABORT_GRACE_MS = 3000, LOG_LINES = 4096, ERROR_SIZE = 512, LOCALS_MAX = 256, SIGNALS = 4 };

struct server {
	const struct server_source *source;
	struct loop *loop; /* the main thread's */
	struct conf *conf;
	struct tls_tickets *tickets;
	struct shared shared;
	struct worker **workers;
	size_t worker_count, ended;
	struct addr *own; /* what we listen on, with real ports */
	size_t own_count;
	int *fds; /* bound sockets not yet a worker's: [address * workers + worker] */
	size_t fd_count;
	struct event *signals[SIGNALS];
	struct watch htpasswd, hosts, resolv;
	struct deadline watch_tick, drain;
	bool draining, aborting;
};

static void say_errors(const struct conf_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		log_err("%s", errors->text[i]);
}

/* --- what a configuration is turned into; the same way at start and at reload --- */

static void on_user_line(void *ctx, unsigned line, const char *message)
{
	const char *path = ctx;

	if (line > 0)
		log_err("%s:%u: %s", path, line, message);
	else
		log_err("%s: %s", path, message);
}

static struct users *load_users(const struct conf *conf)
{
	return users_load(conf->auth.htpasswd, on_user_line, conf->auth.htpasswd);
}

static struct policy *make_policy(const struct server *s, struct conf *conf)
{
	struct addr locals[LOCALS_MAX];
	struct ifaddrs *all = NULL;
	size_t n = 0;

	if (getifaddrs(&all) != 0)
		all = NULL;
	for (struct ifaddrs *i = all; i && n < LOCALS_MAX; i = i->ifa_next) {
		if (!i->ifa_addr)
			continue;
		if (i->ifa_addr->sa_family == AF_INET)
			n += addr_from_sockaddr(&locals[n], i->ifa_addr, sizeof(struct sockaddr_in));
		else if (i->ifa_addr->sa_family == AF_INET6)
			n += addr_from_sockaddr(&locals[n], i->ifa_addr, sizeof(struct sockaddr_in6));
	}
	if (all)
		freeifaddrs(all);
	return policy_new(conf, s->own, s->own_count, locals, n);
}

/* tls: the worker's own, taken over; NULL: the one it has stays. */
static bool make_snapshot(const struct server *s, struct conf *conf, struct tls_context *tls, struct snapshot *out)
{
	*out = (struct snapshot){
		.conf = conf_ref(conf),
		.policy = make_policy(s, conf),
		.tls = tls,
		.hosts = dns_hosts_load("/etc/hosts"),
	};
	if (out->policy && out->hosts)
		return true;
	snapshot_drop(out);
	return false;
}

static struct audit_config audit_config(const struct conf *conf)
{
	return (struct audit_config){
		.directory = conf->audit.directory,
		.node = conf->audit.node,
		.stranger_bytes = conf->audit.stranger_bytes,
		.open_files = conf->audit.open_files,
		.queue = conf->audit.queue,
		.on_failure_allow = conf->audit.on_failure_allow,
	};
}

/* --- start --- */

static bool bind_all(struct server *s)
{
	size_t copies = s->conf->workers;
	char error[ERROR_SIZE];
	bool good = true;

	s->own_count = s->conf->listen_count;
	s->own = mem_array(s->own_count, sizeof(*s->own));
	s->fds = mem_array(s->own_count * copies, sizeof(*s->fds));
	if (!s->own || !s->fds) {
		log_err("listen: out of memory");
		return false;
	}
	for (size_t i = 0; i < s->own_count; i++) {
		s->own[i] = s->conf->listen[i].address;
		if (!listener_bind(&s->own[i], s->fds + s->fd_count, copies, error, sizeof(error))) {
			log_err("listen: %s", error);
			good = false;
		} else {
			s->fd_count += copies;
		}
	}
	return good;
}

static bool start_services(struct server *s)
{
	struct audit_config config = audit_config(s->conf);
	char error[ERROR_SIZE];
	struct users *users;

	s->tickets = tls_tickets_new(s->conf->tls.ticket_secret, s->conf->tls.ticket_lifetime_ms, error, sizeof(error));
	if (!s->tickets) {
		log_err("tls.ticket_secret: %s", error);
		return false;
	}
	users = load_users(s->conf);
	if (!users)
		return false;
	s->shared.auth = auth_new(s->conf, users);
	s->shared.limits = limits_new();
	if (!s->shared.auth || !s->shared.limits) {
		log_err("out of memory or threads");
		return false;
	}
	s->shared.audit = audit_new(&config, error, sizeof(error));
	if (!s->shared.audit) {
		log_err("audit: %s", error);
		return false;
	}
	return true;
}

static bool make_workers(struct server *s)
{
	struct conf_errors errors = { 0 };
	struct tls_context *first = tls_context_new(s->conf, NULL, s->tickets, &errors);
	size_t count = s->conf->workers;
	int *mine = mem_array(s->own_count, sizeof(*mine));

	say_errors(&errors);
	conf_errors_free(&errors);
	s->workers = mem_array(count, sizeof(*s->workers));
	if (!first)
		goto out;
	for (size_t w = 0; mine && s->workers && w < count; w++) {
		struct snapshot snapshot;
		struct worker *worker;

		for (size_t i = 0; i < s->own_count; i++)
			mine[i] = s->fds[i * count + w];
		if (!make_snapshot(s, s->conf, w == 0 ? tls_context_ref(first) : tls_context_clone(first), &snapshot))
			break;
		if (!snapshot.tls) {
			snapshot_drop(&snapshot);
			break;
		}
		worker = worker_new(&s->shared, &snapshot, mine, s->own_count);
		if (!worker) {
			snapshot_drop(&snapshot);
			break;
		}
		s->workers[s->worker_count++] = worker;
		for (size_t i = 0; i < s->own_count; i++)
			s->fds[i * count + w] = -1;
	}
	if (s->worker_count < count)
		log_err("workers: out of memory or descriptors");
out:
	tls_context_unref(first);
	mem_free(mine);
	return s->worker_count == count;
}

/* Workers stop by themselves when they drain and nothing is left. */
static void on_worker_ended(void *ctx)
{
	struct server *s = ctx;

	if (++s->ended == s->worker_count)
		loop_stop(s->loop);
}

static bool start_workers(struct server *s)
{
	for (size_t i = 0; i < s->worker_count; i++) {
		if (!worker_start(s->workers[i], s->loop, on_worker_ended, s)) {
			log_err("workers: cannot start a thread or listen: %s", strerror(errno));
			return false;
		}
	}
	return true;
}

/* Plain lines whatever the log level is: scripts and service managers wait for them. */
static void say_ready(const struct server *s)
{
	char text[ADDR_TEXT_SIZE];

	for (size_t i = 0; i < s->own_count; i++)
		dprintf(STDERR_FILENO, "adit: ready: listening on %s\n", addr_text(&s->own[i], text));
#ifdef HAVE_LIBSYSTEMD
	(void)sd_notify(0, "READY=1");
#endif
}

/* --- reload --- */

static void reload_users(struct server *s)
{
	struct users *users = load_users(s->conf);

	if (!users) {
		log_err("%s: not taken over; the users read before stay in force", s->conf->auth.htpasswd);
		return;
	}
	log_notice("%s: %zu users in force", s->conf->auth.htpasswd, users_count(users));
	auth_reconfigure(s->shared.auth, s->conf, users);
}

/* To all workers or to none: everything that can fail comes before the first letter. tls NULL: certificates stay. */
static bool hand_over(struct server *s, struct conf *conf, const struct tls_context *tls)
{
	struct snapshot *snapshots = mem_array(s->worker_count, sizeof(*snapshots));
	struct order **orders = mem_array(s->worker_count, sizeof(struct order *));
	bool good = snapshots && orders;

	for (size_t i = 0; good && i < s->worker_count; i++) {
		good = make_snapshot(s, conf, tls ? tls_context_clone(tls) : NULL, &snapshots[i]) &&
		       (!tls || snapshots[i].tls);
		orders[i] = good ? worker_adoption(s->workers[i]) : NULL;
		good = good && orders[i];
	}
	for (size_t i = 0; snapshots && orders && i < s->worker_count; i++) {
		if (good) {
			worker_adopt(orders[i], &snapshots[i]);
		} else {
			snapshot_drop(&snapshots[i]);
			mem_free(orders[i]);
		}
	}
	mem_free(snapshots);
	mem_free(orders);
	return good;
}

/* What workers share and what follows a configuration by its own means. Says what is wrong. */
static bool adopt_services(struct server *s, const struct conf *conf)
{
	struct audit_config config = audit_config(conf);
	char error[ERROR_SIZE];

	if (!tls_tickets_reload(s->tickets, conf->tls.ticket_secret, conf->tls.ticket_lifetime_ms, error, sizeof(error))) {
		log_err("tls.ticket_secret: %s", error);
		return false;
	}
	if (!audit_reconfigure(s->shared.audit, &config, error, sizeof(error))) {
		log_err("audit: %s", error);
		return false;
	}
	return true;
}

static void say_not_reloadable(const struct conf *old, const struct conf *new)
{
	struct conf_errors notes = { 0 };

	conf_reloadable(old, new, &notes);
	for (size_t i = 0; i < notes.count; i++)
		log_warning("reload: %s", notes.text[i]);
	conf_errors_free(&notes);
}

/* Build everything, then hand over; what was handed over already is taken back when a later part fails. */
static void reload(struct server *s)
{
	struct conf_errors errors = { 0 };
	struct conf *conf = conf_load(s->source->path, s->source->options, s->source->option_count, &errors);
	struct tls_context *tls = conf ? tls_context_new(conf, NULL, s->tickets, &errors) : NULL;
	struct users *users = NULL;
	struct watch htpasswd;

	say_errors(&errors);
	conf_errors_free(&errors);
	if (tls) {
		watch_init(&htpasswd, conf->auth.htpasswd); /* before it is read: a change in between is seen */
		users = load_users(conf);
	}
	if (users && adopt_services(s, conf) && hand_over(s, conf, tls)) {
		say_not_reloadable(s->conf, conf);
		auth_reconfigure(s->shared.auth, conf, users);
		log_set_level((enum log_level)conf->log_level);
		conf_unref(s->conf);
		s->conf = conf;
		s->htpasswd = htpasswd;
		tls_context_unref(tls);
		log_notice("reload: the new configuration is in force");
		return;
	}
	if (users && !adopt_services(s, s->conf))
		log_err("reload: could not go back to the former ticket secret or audit directory");
	log_err("reload: nothing was changed; the configuration read before stays in force");
	tls_context_unref(tls);
	users_unref(users);
	conf_unref(conf);
}

static void on_watch(void *ctx)
{
	struct server *s = ctx;
	bool hosts = watch_changed(&s->hosts), resolv = watch_changed(&s->resolv);

	if (watch_changed(&s->htpasswd))
		reload_users(s);
	if (hosts || resolv) {
		bool done = hand_over(s, s->conf, NULL);

		if (done)
			log_notice("%s: read again", hosts ? "/etc/hosts" : "/etc/resolv.conf");
		else
			log_err("%s: has changed, but there is no memory to follow", hosts ? "/etc/hosts" : "/etc/resolv.conf");
	}
	tls_tickets_rotate(s->tickets);
	if (!deadline_set(&s->watch_tick, WATCH_MS))
		log_err("out of memory: files are not watched any more");
}

/* --- stop --- */

static void on_drain_over(void *ctx)
{
	struct server *s = ctx;

	if (s->aborting) {
		/* something holds a loop that should not: leave, but say so */
		log_err("stop: %lld connections did not end", stats_get(STAT_CONNECTIONS));
		(void)audit_stop(s->shared.audit);
		log_stop();
		_exit(1);
	}
	s->aborting = true;
	for (size_t i = 0; i < s->worker_count; i++)
		worker_abort(s->workers[i]);
	(void)deadline_set(&s->drain, ABORT_GRACE_MS + s->conf->deadlines.linger);
}

static void stop(struct server *s)
{
	if (s->draining) {
		if (!s->aborting)
			on_drain_over(s); /* asked twice: at once */
		return;
	}
	s->draining = true;
	deadline_clear(&s->watch_tick);
	dprintf(STDERR_FILENO, "adit: draining: connections %lld, tunnels %lld\n", stats_get(STAT_CONNECTIONS),
	    stats_get(STAT_TUNNELS));
#ifdef HAVE_LIBSYSTEMD
	(void)sd_notify(0, "STOPPING=1");
#endif
	for (size_t i = 0; i < s->worker_count; i++)
		worker_drain(s->workers[i]);
	if (s->conf->deadlines.drain != DEADLINE_OFF)
		(void)deadline_set(&s->drain, s->conf->deadlines.drain);
}

static void on_signal(evutil_socket_t number, short what ADIT_UNUSED, void *ctx)
{
	struct server *s = ctx;

	switch (number) {
	case SIGHUP:
		if (!s->draining)
			reload(s);
		return;
	case SIGUSR1:
		audit_reopen(s->shared.audit);
		log_notice("audit files opened again");
		return;
	default:
		stop(s);
	}
}

static bool listen_to_signals(struct server *s)
{
	static const int numbers[SIGNALS] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };

	for (size_t i = 0; i < SIGNALS; i++) {
		s->signals[i] = evsignal_new(loop_base(s->loop), numbers[i], on_signal, s);
		if (!s->signals[i] || event_add(s->signals[i], NULL) != 0)
			return false;
	}
	return true;
}

/* In any state of a start that failed, or after a stop: the workers' threads have ended. */
static void free_all(struct server *s)
{
	for (size_t i = 0; i < s->worker_count; i++) {
		worker_drain(s->workers[i]);
		worker_join(s->workers[i]);
	}
	if (s->shared.auth)
		auth_stop(s->shared.auth);
	if (s->shared.audit)
		(void)audit_stop(s->shared.audit);
	for (size_t i = 0; i < s->worker_count; i++)
		worker_free(s->workers[i]);
	auth_free(s->shared.auth);
	audit_free(s->shared.audit);
	limits_free(s->shared.limits);
	tls_tickets_unref(s->tickets);
	for (size_t i = 0; i < s->fd_count; i++)
		if (s->fds[i] >= 0)
			close(s->fds[i]);
	for (size_t i = 0; i < SIGNALS; i++)
		if (s->signals[i])
			event_free(s->signals[i]);
	deadline_fini(&s->watch_tick);
	deadline_fini(&s->drain);
	loop_free(s->loop);
	mem_free(s->workers);
	mem_free(s->own);
	mem_free(s->fds);
	conf_unref(s->conf);
}

static bool start(struct server *s)
{
	char error[ERROR_SIZE];
	unsigned long files = priv_raise_files();
	unsigned long wanted = 2UL * s->conf->limits.connections + 256;

	if (s->conf->limits.connections > 0 && files < wanted)
		log_notice("limits.connections is %u, which can need %lu open files; the limit is %lu",
		    s->conf->limits.connections, wanted, files);
	if (!bind_all(s))
		return false;
	if (!priv_drop(s->conf->user, error, sizeof(error))) {
		log_err("%s", error);
		return false;
	}
	s->loop = loop_new();
	if (!s->loop || !listen_to_signals(s)) {
		log_err("out of memory or descriptors");
		return false;
	}
	deadline_init(&s->watch_tick, s->loop, on_watch, s);
	deadline_init(&s->drain, s->loop, on_drain_over, s);
	watch_init(&s->htpasswd, s->conf->auth.htpasswd);
	watch_init(&s->hosts, "/etc/hosts");
	watch_init(&s->resolv, "/etc/resolv.conf");
	return start_services(s) && make_workers(s) && deadline_set(&s->watch_tick, WATCH_MS) && start_workers(s);
}

int server_run(struct conf *conf, const struct server_source *source)
{
	struct server s = { .conf = conf, .source = source };
	int status = 1;

	signal(SIGPIPE, SIG_IGN);
	/* Memory is kept instead of being given back and taken again at every turn of a transfer. */
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	mallopt(M_MMAP_THRESHOLD, 4 << 20);
	log_set_level((enum log_level)conf->log_level);
	if (!log_start(LOG_LINES)) {
		log_err("out of memory or threads");
		conf_unref(conf);
		return 1;
	}
	if (start(&s)) {
		say_ready(&s);
		loop_run(s.loop);
		status = 0;
	}
	free_all(&s);
	log_stop();
	if (status == 0)
		dprintf(STDERR_FILENO, "adit: stopped: connections %lld, requests %lld, tunnels %lld\n",
		    stats_get(STAT_CONNECTIONS), stats_get(STAT_REQUESTS), stats_get(STAT_TUNNELS));
	return status;
}
