/* From a configuration to workers that follow it; the same way at start and at every reload.
 *
 * Two phases. First everything is built that can fail: files read and checked, addresses bound, memory taken; what was
 * changed on the way is taken back when a later part fails. Then the workers are told, and nothing can fail any more.
 * The new configuration counts as in force when every worker has answered; until then nothing else is begun. */
#include "server/server_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"

#include <ifaddrs.h>
#include <stdio.h>
#include <time.h>

/* A file that is written again and again is read at the latest then. */
enum { SETTLING_LOOKS = 5 };

static void say_errors(const struct conf_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		log_err("%s", errors->text[i]);
}

/* --- what a configuration is turned into --- */

struct user_report {
	const char *path;
	bool quiet;
	bool lines; /* something is wrong with lines, not with getting at the file */
};

static void on_user_line(void *ctx, unsigned line, const char *message)
{
	struct user_report *report = ctx;

	report->lines = report->lines || line > 0;
	if (report->quiet)
		return;
	if (line > 0)
		log_err("%s:%u: %s", report->path, line, message);
	else
		log_err("%s: %s", report->path, message);
}

static struct users *load_users(const struct conf *conf)
{
	struct user_report report = { .path = conf->auth.htpasswd };

	return users_load(report.path, on_user_line, &report);
}

/* True when they have changed. */
static bool look_at_locals(struct server *s)
{
	struct ifaddrs *all = NULL;
	struct addr a;
	size_t n = 0;
	bool changed = false;

	if (getifaddrs(&all) != 0)
		return false;
	for (struct ifaddrs *i = all; i && n < SERVER_LOCALS_MAX; i = i->ifa_next) {
		bool v4 = i->ifa_addr && i->ifa_addr->sa_family == AF_INET;
		bool v6 = i->ifa_addr && i->ifa_addr->sa_family == AF_INET6;

		if (!(v4 || v6) || !addr_from_sockaddr(&a, i->ifa_addr, v4 ? sizeof(struct sockaddr_in)
									    : sizeof(struct sockaddr_in6)))
			continue;
		changed = changed || n >= s->local_count || !addr_equal(&s->locals[n], &a);
		s->locals[n++] = a;
	}
	changed = changed || n != s->local_count;
	s->local_count = n;
	freeifaddrs(all);
	return changed;
}

static struct policy *make_policy(const struct server *s, struct conf *conf, const struct doors *doors)
{
	struct addr *own = mem_array(doors->count, sizeof(*own));
	struct policy *policy;

	if (!own)
		return NULL;
	for (size_t i = 0; i < doors->count; i++)
		own[i] = doors->at[i].real;
	policy = policy_new(conf, own, doors->count, s->locals, s->local_count);
	mem_free(own);
	return policy;
}

/* What all workers share of a snapshot; tls is each worker's own. names: /etc/hosts is read, else it stays. */
static bool snapshot_make(struct snapshot *out, struct server *s, struct conf *conf, const struct doors *doors,
	bool names)
{
	(void)look_at_locals(s);
	*out = (struct snapshot){
		.conf = conf_ref(conf),
		.policy = make_policy(s, conf, doors),
		.hosts = names ? dns_hosts_load("/etc/hosts") : NULL,
	};
	if (out->policy && (out->hosts || !names))
		return true;
	snapshot_drop(out);
	return false;
}

static struct snapshot snapshot_copy(const struct snapshot *s, struct tls_context *tls)
{
	struct dns_hosts *hosts = s->hosts ? dns_hosts_ref(s->hosts) : NULL;

	return (struct snapshot){ conf_ref(s->conf), policy_ref(s->policy), tls, hosts };
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

/* --- handing over --- */

struct handover {
	size_t count;
	struct part {
		struct adoption *adoption;
		struct snapshot snapshot;
	} *parts; /* one for each worker */
};

static void handover_drop(struct handover *h)
{
	for (size_t i = 0; h->parts && i < h->count; i++) {
		adoption_free(h->parts[i].adoption);
		snapshot_drop(&h->parts[i].snapshot);
	}
	mem_free(h->parts);
	*h = (struct handover){ 0 };
}

static bool part_make(struct part *part, struct worker *worker, size_t index, const struct snapshot *shared,
	struct doors *doors, const struct tls_context *tls)
{
	const struct conf *conf = shared->conf;

	part->snapshot = snapshot_copy(shared, tls ? tls_context_clone(tls) : NULL);
	part->adoption = adoption_new(worker, doors->count);
	if (!part->adoption || (tls && !part->snapshot.tls))
		return false;
	for (size_t i = 0; i < doors->count; i++) {
		const struct conf_listen *listen = &conf->listen[i];
		struct listen_options options = { listen->close_after_refusal, listen->http2 };

		if (!adoption_listen(part->adoption, &doors->at[i].real, &options, doors_take(doors, i, index)))
			return false;
	}
	return true;
}

/* tls NULL: the contexts stay. names: hosts and name servers are read again. */
static bool handover_make(struct handover *h, struct server *s, struct conf *conf, struct doors *doors,
	const struct tls_context *tls, bool names)
{
	struct snapshot shared;
	bool good = true;

	*h = (struct handover){ .count = s->worker_count, .parts = mem_array(s->worker_count, sizeof(*h->parts)) };
	if (!h->parts || !snapshot_make(&shared, s, conf, doors, names)) {
		handover_drop(h);
		return false;
	}
	for (size_t i = 0; good && i < h->count; i++)
		good = part_make(&h->parts[i], s->workers[i], i, &shared, doors, tls);
	snapshot_drop(&shared);
	if (good)
		doors_settle(doors);
	else
		handover_drop(h);
	return good;
}

static void on_adopted(void *ctx)
{
	struct adoption *a = ctx;
	struct server *s = adoption_ctx(a);

	s->adoption_failed = s->adoption_failed || !adoption_good(a);
	adoption_free(a);
	if (--s->adopting > 0)
		return;
	server_adopted(s);
	if (s->reload_wanted && !s->draining) {
		s->reload_wanted = false;
		server_reload(s);
	}
}

static void handover_send(struct handover *h, struct server *s)
{
	s->adopting = h->count;
	s->adoption_failed = false;
	for (size_t i = 0; i < h->count; i++)
		adoption_send(h->parts[i].adoption, &h->parts[i].snapshot, on_adopted, s);
	mem_free(h->parts);
}

/* --- start --- */

bool server_start_services(struct server *s)
{
	struct audit_config config = audit_config(s->conf);
	char error[SERVER_TEXT_SIZE];
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

bool server_make_workers(struct server *s)
{
	struct conf_errors errors = { 0 };
	struct tls_context *first = tls_context_new(s->conf, NULL, s->tickets, &errors);
	size_t count = s->conf->workers;
	struct snapshot shared = { 0 };

	say_errors(&errors);
	conf_errors_free(&errors);
	if (!first)
		return false;
	s->workers = mem_array(count, sizeof(*s->workers));
	if (s->workers && snapshot_make(&shared, s, s->conf, &s->doors, true)) {
		while (s->worker_count < count) {
			struct snapshot mine =
				snapshot_copy(&shared, s->worker_count ? tls_context_clone(first) : tls_context_ref(first));

			s->workers[s->worker_count] = mine.tls ? worker_new(&s->shared, &mine) : NULL;
			if (!s->workers[s->worker_count]) {
				snapshot_drop(&mine);
				break;
			}
			s->worker_count++;
		}
		snapshot_drop(&shared);
	}
	tls_context_unref(first);
	if (s->worker_count < count)
		log_err("workers: out of memory or descriptors");
	return s->worker_count == count;
}

bool server_first_configuration(struct server *s)
{
	struct handover handover;

	if (!handover_make(&handover, s, s->conf, &s->doors, NULL, false)) {
		log_err("out of memory");
		return false;
	}
	handover_send(&handover, s);
	return true;
}

/* --- reload --- */

static void say_not_reloadable(const struct conf *old, const struct conf *new)
{
	struct conf_errors notes = { 0 };

	conf_reloadable(old, new, &notes);
	for (size_t i = 0; i < notes.count; i++)
		log_warning("reload: %s", notes.text[i]);
	conf_errors_free(&notes);
}

/* What a reload has built so far. */
struct fresh {
	struct conf *conf;
	struct tls_context *tls;
	struct watch htpasswd;
	struct users *users;
	struct doors doors;
	struct handover handover;
};

static bool read_all(struct server *s, struct fresh *f)
{
	struct conf_errors errors = { 0 };

	f->conf = conf_load(s->source->path, s->source->options, s->source->option_count, &errors);
	if (f->conf && conf_complete(f->conf, &errors))
		f->tls = tls_context_new(f->conf, NULL, s->tickets, &errors);
	say_errors(&errors);
	conf_errors_free(&errors);
	if (!f->tls)
		return false;
	watch_init(&f->htpasswd, f->conf->auth.htpasswd); /* before it is read: a change in between is seen */
	f->users = load_users(f->conf);
	return f->users != NULL;
}

/* What workers share follows a configuration by its own means. Says what is wrong; then both are as they were. */
static bool adopt_services(struct server *s, const struct conf *conf)
{
	struct audit_config config = audit_config(conf), before = audit_config(s->conf);
	char error[SERVER_TEXT_SIZE];

	if (!audit_reconfigure(s->shared.audit, &config, error, sizeof(error))) {
		log_err("audit: %s", error);
		return false;
	}
	if (tls_tickets_reload(s->tickets, conf->tls.ticket_secret, conf->tls.ticket_lifetime_ms, error, sizeof(error)))
		return true;
	log_err("tls.ticket_secret: %s", error);
	if (!audit_reconfigure(s->shared.audit, &before, error, sizeof(error)))
		log_err("reload: could not go back to the former audit directory: %s", error);
	return false;
}

/* Last what is not undone by letting go of it. */
static bool prepare(struct server *s, struct fresh *f)
{
	if (!doors_open(&f->doors, f->conf, &s->doors, s->worker_count))
		return false;
	if (!handover_make(&f->handover, s, f->conf, &f->doors, f->tls, true)) {
		log_err("reload: out of memory");
		return false;
	}
	if (adopt_services(s, f->conf))
		return true;
	handover_drop(&f->handover);
	return false;
}

/* Users before workers: what a worker begins or reviews under the new rules is asked of the new users. */
static void commit(struct server *s, struct fresh *f)
{
	say_not_reloadable(s->conf, f->conf);
	auth_reconfigure(s->shared.auth, f->conf, f->users);
	log_set_level((enum log_level)f->conf->log_level);
	handover_send(&f->handover, s);
	conf_unref(s->conf);
	s->conf = f->conf;
	doors_fini(&s->doors);
	s->doors = f->doors;
	s->htpasswd = f->htpasswd;
	s->users_settling = 0;
	s->users_unread = false;
	s->unfollowed = NULL;
	tls_context_unref(f->tls);
	snprintf(s->news, sizeof(s->news), "reload: the new configuration is in force");
}

void server_reload(struct server *s)
{
	struct fresh f = { 0 };
	struct timespec now;

	if (s->adopting > 0) {
		s->reload_wanted = true;
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	server_notify("RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=Reading the configuration",
		(long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
	if (read_all(s, &f) && prepare(s, &f)) {
		commit(s, &f);
		return;
	}
	log_err("reload: nothing was changed; the configuration read before stays in force");
	server_notify("READY=1\nSTATUS=Reload failed, nothing was changed; see the log");
	doors_fini(&f.doors);
	tls_context_unref(f.tls);
	users_unref(f.users);
	conf_unref(f.conf);
}

/* --- watched files --- */

/* Without memory or descriptors it is tried again at the next look, and said once: a user who was removed must not stay
 * because the news came at a bad moment. What is wrong in the file stays wrong until somebody changes it. */
static void follow_htpasswd(struct server *s)
{
	struct user_report report = { .path = s->conf->auth.htpasswd, .quiet = s->users_unread };
	struct users *users = users_load(report.path, on_user_line, &report);
	struct handover handover;

	if (users && handover_make(&handover, s, s->conf, &s->doors, NULL, false)) {
		s->users_unread = false;
		snprintf(s->news, sizeof(s->news), "%s: %zu users in force", report.path, users_count(users));
		auth_reconfigure(s->shared.auth, s->conf, users);
		handover_send(&handover, s);
		return;
	}
	if (!report.quiet)
		log_err("%s: %snot taken over; the users read before stay in force", report.path,
		    users ? "out of memory: " : "");
	s->users_unread = users || !report.lines;
	users_unref(users);
}

/* names: hosts and name servers; else the addresses that count as the proxy's own. */
static void follow(struct server *s, const char *what, bool names)
{
	static struct log_limit limit = LOG_LIMIT(60000);
	struct handover handover;

	s->unfollowed = NULL;
	if (handover_make(&handover, s, s->conf, &s->doors, NULL, names)) {
		handover_send(&handover, s);
		snprintf(s->news, sizeof(s->news), "%s: read again", what);
		return;
	}
	s->unfollowed = what;
	s->unfollowed_names = names;
	if (log_limit(&limit))
		log_err("%s: changed, but there is no memory to follow; it will be tried again", what);
}

/* One at a time: what else has changed is seen at the next look. */
void server_look(struct server *s)
{
	if (s->adopting > 0)
		return;
	if (watch_changed(&s->htpasswd) && ++s->users_settling < SETTLING_LOOKS)
		return; /* somebody may still be writing: half a file would cost users their tunnels */
	if (s->users_settling > 0) {
		s->users_settling = 0;
		s->users_unread = false;
		follow_htpasswd(s);
	} else if (s->users_unread) {
		follow_htpasswd(s);
	} else if (watch_changed(&s->hosts)) {
		follow(s, "/etc/hosts", true);
	} else if (watch_changed(&s->resolv)) {
		follow(s, "/etc/resolv.conf", true);
	} else if (s->unfollowed) {
		follow(s, s->unfollowed, s->unfollowed_names);
	} else if (look_at_locals(s)) {
		follow(s, "this machine's addresses", false);
	}
}
