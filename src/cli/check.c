/* adit check: everything that would stop `adit serve`, or spoil it later, found before it is started. The
 * configuration comes first, then what it names: certificates, users, the audit directory, and whether the service
 * account can read them all.
 *
 * Faults are errors when the proxy would not start, or serve nobody; what merely deserves a look is a warning. */
#include "cli/cli_priv.h"
#include "cli/options.h"

#include "adit/auth/users.h"
#include "adit/conf/conf.h"
#include "adit/http/h2.h"
#include "adit/tls/cert.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	EXIT_FAULTS = 2,
	EXPIRY_SOON_S = 14 * 24 * 3600,
	HASH_SLOW_MS = 1000,
	COSTS_MAX = 16, /* kinds and costs that are measured; a file has one or two */
	GROUPS_MAX = 256,
};

struct check {
	const struct conf *conf;
	unsigned errors, warnings;
};

static void check_error(struct check *c, const char *fmt, ...) ADIT_PRINTF(2, 3);
static void check_warning(struct check *c, const char *fmt, ...) ADIT_PRINTF(2, 3);

static void check_error(struct check *c, const char *fmt, ...)
{
	va_list args;

	c->errors++;
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

static void check_warning(struct check *c, const char *fmt, ...)
{
	va_list args;

	c->warnings++;
	fputs("warning: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

/* --- certificates --- */

struct certificate {
	struct check *check;
	char where[512]; /* "adit.yaml:4:7: tls.certificates[1]" */
};

static void on_certificate(void *ctx, enum tls_cert_level level, const char *sentence)
{
	struct certificate *c = ctx;

	if (level == TLS_CERT_ERROR)
		check_error(c->check, "%s: %s", c->where, sentence);
	else
		check_warning(c->check, "%s: %s", c->where, sentence);
}

static void check_certificates(struct check *c)
{
	const struct conf *conf = c->conf;
	time_t now = time(NULL);

	for (size_t i = 0; i < conf->tls.certificate_count; i++) {
		const struct conf_certificate *given = &conf->tls.certificates[i];
		struct certificate report = { .check = c };
		struct tls_cert *cert;
		unsigned warned = c->warnings;

		if (given->where.line > 0)
			snprintf(report.where, sizeof(report.where), "%s:%u:%u: tls.certificates[%zu]", conf->path,
				given->where.line, given->where.column, i + 1);
		else
			snprintf(report.where, sizeof(report.where), "tls.certificates[%zu]", i + 1);
		cert = tls_cert_load(given->chain, given->key, on_certificate, &report);
		if (!cert)
			continue;
		if (tls_cert_expires(cert) <= now)
			check_error(c, "%s: %s: no client takes a certificate after its time: renew it", report.where,
				given->chain);
		else if (tls_cert_expires(cert) - now < EXPIRY_SOON_S && c->warnings == warned)
			check_warning(c, "%s: %s: the certificate expires in %lld hours: renew it", report.where,
				given->chain, (long long)(tls_cert_expires(cert) - now) / 3600);
		if (tls_cert_name_count(cert) == 0)
			check_warning(c, "%s: %s: the certificate names no host", report.where, given->chain);
		tls_cert_free(cert);
	}
	if (conf->tls.ticket_secret && access(conf->tls.ticket_secret, R_OK) != 0)
		check_error(c, "tls.ticket_secret: %s: cannot be read: %s", conf->tls.ticket_secret, strerror(errno));
}

/* --- users --- */

/* Lines of one kind and cost: they take equally long. */
struct cost {
	enum hash_kind kind;
	unsigned cost;
	size_t lines;
	const struct user *first;
};

static void on_user(void *ctx, unsigned line, const char *message)
{
	struct check *c = ctx;

	if (line > 0)
		check_error(c, "%s:%u: %s", c->conf->auth.htpasswd, line, message);
	else
		check_error(c, "%s: %s", c->conf->auth.htpasswd, message);
}

/* Adds the line to its cost, or a new one; costs beyond COSTS_MAX are not measured. */
static void count_cost(struct cost *costs, size_t *count, const struct user *user)
{
	for (size_t i = 0; i < *count; i++) {
		if (costs[i].kind == user->kind && costs[i].cost == user->cost) {
			costs[i].lines++;
			return;
		}
	}
	if (*count < COSTS_MAX)
		costs[(*count)++] = (struct cost){ user->kind, user->cost, 1, user };
}

static void check_kinds(struct check *c, const struct cost *costs, size_t count)
{
	size_t lines[HASH_KIND_COUNT] = { 0 };
	char kinds[256] = "";
	size_t n = 0, different = 0;

	for (size_t i = 0; i < count; i++)
		lines[costs[i].kind] += costs[i].lines;
	for (int kind = 0; kind < HASH_KIND_COUNT; kind++) {
		if (lines[kind] == 0)
			continue;
		different++;
		n += (size_t)snprintf(kinds + n, sizeof(kinds) - n, "%s%zu %s", n ? ", " : "", lines[kind],
			hash_kind_name((enum hash_kind)kind));
	}
	if (different > 1)
		check_warning(c, "%s: hashes of several kinds (%s): they take differently long, which tells strangers about "
			"users; adit passwd %s USER makes new ones", c->conf->auth.htpasswd, kinds, c->conf->auth.htpasswd);
}

static void check_users(struct check *c)
{
	const char *path = c->conf->auth.htpasswd;
	struct cost costs[COSTS_MAX];
	struct users *users;
	struct stat st;
	size_t count = 0;

	if (!path || !(users = users_load(path, on_user, c)))
		return;
	if (users_count(users) == 0)
		check_warning(c, "%s: it has no user, so nobody can log in; adit passwd %s USER makes one", path, path);
	for (size_t i = 0; i < users_count(users); i++)
		count_cost(costs, &count, users_at(users, i));
	check_kinds(c, costs, count);
	for (size_t i = 0; i < count; i++) {
		const struct cost *cost = &costs[i];
		unsigned ms = hash_cost_ms(cost->first);

		if (ms <= HASH_SLOW_MS)
			continue;
		check_warning(c, "%s:%u: checking this password takes %u.%u s (%s, cost %u; %zu such lines): logins wait for "
			"it, and few of them keep the proxy busy", path, cost->first->line, ms / 1000, ms % 1000 / 100,
			hash_kind_name(cost->kind), cost->cost, cost->lines);
	}
	users_unref(users);
	if (stat(path, &st) == 0 && (st.st_mode & S_IROTH))
		check_warning(c, "%s: the hashes are readable for everybody; chmod o= %s", path, path);
}

/* --- what must be there, and for whom --- */

static void check_directory(struct check *c)
{
	const char *path = c->conf->audit.directory;
	struct stat st;

	if (stat(path, &st) != 0)
		check_error(c, "audit.directory: %s: %s; make it, for the service user alone: install -d -m 0750 %s", path,
			strerror(errno), path);
	else if (!S_ISDIR(st.st_mode))
		check_error(c, "audit.directory: %s: is not a directory", path);
	else if (access(path, W_OK | X_OK) != 0)
		check_error(c, "audit.directory: %s: cannot be written to: %s", path, strerror(errno));
	else if (st.st_mode & S_IWOTH)
		check_warning(c, "audit.directory: %s: everybody can write there; chmod o= %s", path, path);
}

/* 64KiB are kept for each stream that may still come; windows grow into the rest. */
static void check_windows(struct check *c)
{
	unsigned streams = c->conf->http2.streams;

	if (c->conf->http2.window_bytes / H2_WINDOW_FIRST <= streams)
		check_warning(c, "http2.window: it has no more than 64KiB for each of %u http2.streams, so no window can grow "
			"and uploads over a long way are slow; make it larger, or http2.streams smaller", streams);
}

/* What the service account must be able to do with a path. */
struct need {
	const char *key, *path;
	int mode;
};

/* In a child that has become the account: one errno per path, through the pipe. */
_Noreturn static void look_as(const struct passwd *account, const gid_t *groups, int group_count,
	const struct need *needs, size_t count, int to)
{
	int failed;

	if (setgroups((size_t)group_count, groups) != 0 ||
		setresgid(account->pw_gid, account->pw_gid, account->pw_gid) != 0 ||
		setresuid(account->pw_uid, account->pw_uid, account->pw_uid) != 0)
		_exit(1);
	for (size_t i = 0; i < count; i++) {
		failed = access(needs[i].path, needs[i].mode) == 0 ? 0 : errno;
		if (write(to, &failed, sizeof(failed)) != (ssize_t)sizeof(failed))
			_exit(1);
	}
	_exit(0);
}

static void look_for(struct check *c, const struct passwd *account, const struct need *needs, size_t count)
{
	gid_t groups[GROUPS_MAX];
	int group_count = GROUPS_MAX, ends[2], failed, status;
	pid_t child;

	if (getgrouplist(account->pw_name, account->pw_gid, groups, &group_count) < 0)
		group_count = GROUPS_MAX;
	if (pipe(ends) != 0) {
		check_error(c, "user: %s: not looked at: %s", account->pw_name, strerror(errno));
		return;
	}
	child = fork();
	if (child == 0) {
		close(ends[0]);
		look_as(account, groups, group_count, needs, count, ends[1]);
	}
	close(ends[1]);
	for (size_t i = 0; child > 0 && i < count && read(ends[0], &failed, sizeof(failed)) == (ssize_t)sizeof(failed); i++)
		if (failed != 0)
			check_error(c, "%s: %s: %s cannot %s it: %s", needs[i].key, needs[i].path, account->pw_name,
				needs[i].mode == R_OK ? "read" : "write to", strerror(failed));
	close(ends[0]);
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
		check_error(c, "user: %s: this account cannot be taken on here, so what it can read was not looked at",
			account->pw_name);
}

static void check_account(struct check *c)
{
	enum { FIXED = 4, CERTIFICATES_MAX = 256 };
	const struct conf *conf = c->conf;
	const struct passwd *account;
	struct need needs[FIXED + 2 * CERTIFICATES_MAX];
	size_t n = 0;

	if (!conf->user)
		return;
	errno = 0;
	account = getpwnam(conf->user);
	if (!account) {
		check_error(c, "user: there is no account %s; make one: useradd --system --shell /usr/sbin/nologin %s",
			conf->user, conf->user);
		return;
	}
	if (geteuid() != 0) {
		if (geteuid() != account->pw_uid)
			check_warning(c, "user: files were looked at as the present user, not as %s: run adit check as root",
				conf->user);
		return;
	}
	if (conf->path)
		needs[n++] = (struct need){ "configuration", conf->path, R_OK };
	if (conf->auth.htpasswd)
		needs[n++] = (struct need){ "auth.htpasswd", conf->auth.htpasswd, R_OK };
	if (conf->tls.ticket_secret)
		needs[n++] = (struct need){ "tls.ticket_secret", conf->tls.ticket_secret, R_OK };
	needs[n++] = (struct need){ "audit.directory", conf->audit.directory, W_OK | X_OK };
	for (size_t i = 0; i < conf->tls.certificate_count && i < CERTIFICATES_MAX; i++) {
		needs[n++] = (struct need){ "tls.certificates: chain", conf->tls.certificates[i].chain, R_OK };
		needs[n++] = (struct need){ "tls.certificates: key", conf->tls.certificates[i].key, R_OK };
	}
	look_for(c, account, needs, n);
}

/* --- */

/* Prints the faults of the configuration itself. */
static void report_faults(struct check *c, struct conf_errors *errors)
{
	conf_errors_print(errors, stderr);
	c->errors += (unsigned)(errors->count + errors->left_out);
	conf_errors_free(errors);
}

static int check_all(const struct options *options, bool quiet)
{
	struct conf_errors errors = { .text = NULL };
	struct check c = { .conf = NULL };
	struct conf *conf = options_load(options, &errors);

	if (conf) {
		c.conf = conf;
		(void)conf_complete(conf, &errors);
		report_faults(&c, &errors);
		check_certificates(&c);
		check_users(&c);
		check_directory(&c);
		check_windows(&c);
		check_account(&c);
	} else {
		report_faults(&c, &errors);
	}
	if (c.errors > 0 || c.warnings > 0)
		fprintf(stderr, "adit check: %u error%s, %u warning%s\n", c.errors, c.errors == 1 ? "" : "s", c.warnings,
			c.warnings == 1 ? "" : "s");
	if (c.errors == 0 && !quiet)
		conf_print(conf, stdout);
	conf_unref(conf);
	return c.errors > 0 ? EXIT_FAULTS : 0;
}

int check_main(int argc, char **argv)
{
	bool quiet = false;
	const struct options_flag flags[] = {
		{ "--quiet", "do not print the effective configuration", &quiet },
		{ NULL, NULL, NULL },
	};
	struct options options;
	int status = EXIT_FAULTS;

	if (!options_parse(&options, argc, argv, flags, stderr))
		goto out;
	status = 0;
	if (options.help)
		options_help("check", "Looks for everything that is wrong with a configuration and with the files it names.\n"
			"When nothing is, prints the effective configuration. Exit status: 0, or 2 when there is an error.",
			flags, stdout);
	else
		status = check_all(&options, quiet);
	if (fflush(stdout) != 0) {
		fprintf(stderr, "adit check: cannot write: %s\n", strerror(errno));
		status = EXIT_FAULTS;
	}
out:
	options_fini(&options);
	return status;
}
