/* The main thread: start in the right order, then signals, watched files, stop in the right order.
 *
 * Start: descriptors' limit -> bind -> drop privileges -> files (keys, htpasswd, audit) -> services -> workers, which
 * then go over to the first configuration as to any later one. What fails fails before anything is served.
 * Stop: doors -> tunnels (drain deadline) -> workers -> auth -> audit -> memory; a service ends before the loops that
 * its answers go to. */
#include "server/server_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"
#include "server/priv.h"

#include <errno.h>
#include <event2/event.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
#ifdef HAVE_LIBSYSTEMD
#include <systemd/sd-daemon.h>
#endif

enum { WATCH_MS = 1000, ABORT_GRACE_MS = 3000, LOG_LINES = 4096 };

void server_notify(const char *format ADIT_UNUSED, ...)
{
#ifdef HAVE_LIBSYSTEMD
	char state[SERVER_TEXT_SIZE];
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(state, sizeof(state), format, arguments);
	va_end(arguments);
	(void)sd_notify(0, state);
#endif
}

/* --- start --- */

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
			log_err("workers: cannot start a thread: %s", strerror(errno));
			return false;
		}
	}
	return true;
}

/* Plain lines whatever the log level is: scripts and service managers wait for them. */
static void say_ready(const struct server *s)
{
	char text[ADDR_TEXT_SIZE];

	for (size_t i = 0; i < s->doors.count; i++)
		dprintf(STDERR_FILENO, "adit: ready: listening on %s\n", addr_text(&s->doors.at[i].real, text));
}

void server_adopted(struct server *s)
{
	if (!s->ready && s->adoption_failed) {
		log_err("workers: cannot listen: out of memory");
		s->status = 1;
		loop_stop(s->loop);
		return;
	}
	if (s->draining)
		return;
	if (s->adoption_failed)
		log_err("out of memory: not every worker has new addresses or name servers; restart when there is some again");
	if (!s->ready) {
		s->ready = true;
		say_ready(s);
	} else {
		log_notice("%s", s->news);
	}
	server_notify("READY=1\nSTATUS=Serving");
}

static void on_watch(void *ctx)
{
	struct server *s = ctx;

	server_look(s);
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
	server_notify("STOPPING=1\nSTATUS=Draining");
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
			server_reload(s);
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
	static const int numbers[SERVER_SIGNALS] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };

	for (size_t i = 0; i < SERVER_SIGNALS; i++) {
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
	doors_fini(&s->doors);
	for (size_t i = 0; i < SERVER_SIGNALS; i++)
		if (s->signals[i])
			event_free(s->signals[i]);
	deadline_fini(&s->watch_tick);
	deadline_fini(&s->drain);
	loop_free(s->loop);
	mem_free(s->workers);
	conf_unref(s->conf);
}

static bool start(struct server *s)
{
	char error[SERVER_TEXT_SIZE];
	unsigned long files = priv_raise_files();
	unsigned long wanted = 2UL * s->conf->limits.connections + 256;

	if (s->conf->limits.connections > 0 && files < wanted)
		log_notice("limits.connections is %u, which can need %lu open files; the limit is %lu",
		    s->conf->limits.connections, wanted, files);
	if (!doors_open(&s->doors, s->conf, &(struct doors){ 0 }, s->conf->workers))
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
	return server_start_services(s) && server_make_workers(s) && deadline_set(&s->watch_tick, WATCH_MS) &&
	       start_workers(s) && server_first_configuration(s);
}

int server_run(struct conf *conf, const struct server_source *source)
{
	struct server s = { .conf = conf, .source = source, .status = 1 };

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
		s.status = 0;
		loop_run(s.loop);
	}
	free_all(&s);
	log_stop();
	if (s.status == 0)
		dprintf(STDERR_FILENO, "adit: stopped: connections %lld, requests %lld, tunnels %lld\n",
		    stats_get(STAT_CONNECTIONS), stats_get(STAT_REQUESTS), stats_get(STAT_TUNNELS));
	return s.status;
}
