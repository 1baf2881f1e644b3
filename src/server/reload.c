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

static void say_errors(const struct conf_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++)
		log_err("%s", errors->text[i]);
}

/* --- what a configuration is turned into --- */

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

/* What all workers share of a snapshot; tls is each worker's own. */
static bool snapshot_make(struct snapshot *out, struct server *s, struct conf *conf, const struct doors *doors)
{
	(void)look_at_locals(s);
	*out = (struct snapshot){
		.conf = conf_ref(conf),
		.policy = make_policy(s, conf, doors),
		.hosts = dns_hosts_load("/etc/hosts"),
	};
	if (out->policy && out->hosts)
		return true;
	snapshot_drop(out);
	return false;
}

static struct snapshot snapshot_copy(const struct snapshot *s, struct tls_context *tls)
{
	return (struct snapshot){ conf_ref(s->conf), policy_ref(s->policy), tls, dns_hosts_ref(s->hosts) };
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
	for (size_t i = 0; i < doors->count; i++)
		if (!adoption_listen(part->adoption, &doors->at[i].real, conf->listen[i].close_after_refusal,
			    doors_take(doors, i, index)))
			return false;
	return true;
}

/* Everything that can fail. tls NULL: the contexts stay. */
static bool handover_make(struct handover *h, struct server *s, struct conf *conf, struct doors *doors,
	const struct tls_context *tls)
{
	struct snapshot shared;
	bool good = true;

	*h = (struct handover){ .count = s->worker_count, .parts = mem_array(s->worker_count, sizeof(*h->parts)) };
	if (!h->parts || !snapshot_make(&shared, s, conf, doors)) {
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
	if (s->workers && snapshot_make(&shared, s, s->conf, &s->doors)) {
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

	if (!handover_make(&handover, s, s->conf, &s->doors, NULL)) {
		log_err("out of memory");
		return false;
	}
	handover_send(&handover, s);
	return true;
}

/* --- reload --- */

/* What workers share and what follows a configuration by its own means. Says what is wrong. */
static bool adopt_services(struct server *s, const struct conf *conf)
{
	struct audit_config config = audit_config(conf);
	char error[SERVER_TEXT_SIZE];

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

/* The addresses come before the services, which have to be taken back when something fails behind them. */
static bool prepare(struct server *s, struct fresh *f)
{
	if (!doors_open(&f->doors, f->conf, &s->doors, s->worker_count))
		return false;
	if (!adopt_services(s, f->conf)) {
		if (!adopt_services(s, s->conf))
			log_err("reload: could not go back to the former ticket secret or audit directory");
		return false;
	}
	if (handover_make(&f->handover, s, f->conf, &f->doors, f->tls))
		return true;
	log_err("reload: out of memory");
	if (!adopt_services(s, s->conf))
		log_err("reload: could not go back to the former ticket secret or audit directory");
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

static void follow_htpasswd(struct server *s)
{
	struct users *users = load_users(s->conf);
	struct handover handover;
	size_t count = users ? users_count(users) : 0;

	if (users && handover_make(&handover, s, s->conf, &s->doors, NULL)) {
		auth_reconfigure(s->shared.auth, s->conf, users);
		handover_send(&handover, s);
		snprintf(s->news, sizeof(s->news), "%s: %zu users in force", s->conf->auth.htpasswd, count);
		return;
	}
	if (users)
		log_err("out of memory");
	users_unref(users);
	log_err("%s: not taken over; the users read before stay in force", s->conf->auth.htpasswd);
}

/* Names, and the addresses that count as the proxy's own. */
static void follow(struct server *s, const char *what)
{
	struct handover handover;

	if (!handover_make(&handover, s, s->conf, &s->doors, NULL)) {
		log_err("%s: changed, but there is no memory to follow", what);
		return;
	}
	handover_send(&handover, s);
	snprintf(s->news, sizeof(s->news), "%s: read again", what);
}

/* One at a time: what else has changed is seen at the next look. */
void server_look(struct server *s)
{
	if (s->adopting > 0)
		return;
	if (watch_changed(&s->htpasswd))
		follow_htpasswd(s);
	else if (watch_changed(&s->hosts))
		follow(s, "/etc/hosts");
	else if (watch_changed(&s->resolv))
		follow(s, "/etc/resolv.conf");
	else if (look_at_locals(s))
		follow(s, "this machine's addresses");
}
