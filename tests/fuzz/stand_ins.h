/* What tunnels work with, played by a script: passwords, names, dialling, the writer of records and the log keep to
 * their headers' contracts and answer as they are told. They are defined here under their real names, so that the
 * linker does not look for others.
 *
 * Each checks what it is asked for: nobody is dialled before the login, nor where no policy of the target leads; a
 * target's stream is only made when the access is on record; nothing that is written has a password in it. */
#ifndef ADIT_TESTS_FUZZ_STAND_INS_H
#define ADIT_TESTS_FUZZ_STAND_INS_H

#include "adit/audit/audit.h"
#include "adit/auth/auth.h"
#include "adit/base/mem.h"
#include "adit/dial/dial.h"
#include "adit/dns/dns.h"
#include "adit/http/request.h"
#include "adit/stream/tcp.h"
#include "fuzz/far_end.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

/* Every line of the log comes to log_write below; all else of the log is real. */
#define log_write log_write_to_stderr
#define log_limit(limit) log_limit_by_the_clock(limit)
#include "log/log.c"
#undef log_write
#undef log_limit
void log_write(enum log_level level, const char *fmt, ...) ADIT_PRINTF(2, 3);
bool log_limit(struct log_limit *limit);

#define RIGHT "Pw0fTheFuzz"
#define WRONG "Wr0ng0fTheFuzz"

enum { ACCESSES_MAX = 512, LATE_MAX = 512 };

/* One request and what became of it. */
struct access_log {
	enum head_method method;
	enum head_form form;
	enum reason fault;
	size_t end; /* of its head, in what the client sent; 0: it has none */
	uint16_t port;
	char id[AUDIT_ID_SIZE]; /* empty: nothing recorded yet */
	bool known; /* logged in */
	bool knows_nothing; /* begun without memory: answered, but not recorded */
	bool open, open_good, open_failed, opened; /* submitted; written; not written; its target's stream was made */
	unsigned lasts, progresses;
	int status;
	enum reason reason;
	unsigned long long up, down;
};

/* What a service does when it is asked. */
enum service { SERVE_AT_ONCE, SERVE_SOON, SERVE_WHEN_TOLD, SERVE_NOT };

struct late_record {
	audit_done_fn *done;
	void *ctx;
	size_t access;
};

static struct world {
	struct loop *loop;
	struct far_end client, target;
	struct access_log access[ACCESSES_MAX];
	size_t accesses;
	enum service auth, dns, dial, audit, stream;
	unsigned refusal; /* which of its verdicts a service gives that serves not */
	bool gone_users; /* nobody is known any more */
	bool lax_records; /* a configuration that lets tunnels through without their records was in force */
	struct auth_job *job;
	struct dns_query *query;
	struct dial *dialling;
	struct late_record late[LATE_MAX];
	size_t late_n;
	int fd; /* handed out by dialling; -1: none */
	struct addr dialled;
	char raw[FAR_SENT_MAX]; /* what the script itself has sent */
	size_t raw_n;
} world;

static struct access_log *the_access(void)
{
	must(world.accesses > 0, "a service is asked before there is a request");
	return &world.access[world.accesses - 1];
}

/* --- passwords must not appear --- */

static char secrets[4][32];

static void secrets_init(void)
{
	static const char *const texts[] = { RIGHT, WRONG };

	for (int i = 0; i < 2; i++) {
		snprintf(secrets[2 * i], sizeof(secrets[0]), "%s", texts[i]);
		/* behind six bytes of user and colon, as it stands in the field; the last group may differ */
		EVP_EncodeBlock((unsigned char *)secrets[2 * i + 1], (const unsigned char *)texts[i], 9);
	}
}

static void must_be_clean(const void *p, size_t n, const char *where)
{
	for (int i = 0; i < 4; i++)
		if (memmem(p, n, secrets[i], strlen(secrets[i])) && !memmem(world.raw, world.raw_n, secrets[i], strlen(secrets[i])))
			must(false, where);
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char text[LOG_LINE_MAX];
	va_list args;
	size_t n;

	va_start(args, fmt);
	n = line_format(text, level, false, fmt, args);
	va_end(args);
	must(n > 0 && n <= sizeof(text) && text[n - 1] == '\n', "a line of the log");
	for (size_t i = 0; i + 1 < n; i++)
		must((unsigned char)text[i] >= 0x20 && (unsigned char)text[i] < 0x7f, "a byte in a line of the log");
	must_be_clean(text, n, "a password in the log");
}

bool log_limit(struct log_limit *limit)
{
	(void)limit;
	return true;
}

/* --- passwords --- */

struct auth_job {
	struct loop_task task;
	auth_done_fn *done;
	void *ctx;
	enum reason verdict;
	unsigned retry_after_s;
};

static void job_free(struct auth_job *job)
{
	world.job = NULL;
	loop_unpost(world.loop, &job->task);
	loop_release(world.loop);
	free(job);
}

static void on_job(void *ctx)
{
	struct auth_job copy = *(struct auth_job *)ctx;

	job_free(ctx);
	if (copy.verdict == REASON_OK && world.gone_users)
		copy.verdict = REASON_AUTH_FAILED; /* judged by the users in force */
	the_access()->known = copy.verdict == REASON_OK;
	copy.done(copy.ctx, copy.verdict, copy.retry_after_s);
}

static enum reason auth_refusal(unsigned which, unsigned *retry_after_s)
{
	static const enum reason verdicts[] = { REASON_AUTH_FAILED, REASON_AUTH_THROTTLED, REASON_AUTH_BUSY, REASON_AUTH_ERROR,
						REASON_NO_MEMORY };
	enum reason verdict = verdicts[which % 5];

	*retry_after_s = verdict == REASON_AUTH_THROTTLED ? 7 : 0;
	return verdict;
}

enum reason auth_check(struct auth *auth, struct loop *loop, const struct credentials *c, const struct addr *client,
	auth_done_fn *done, void *ctx, struct auth_job **job, unsigned *retry_after_s)
{
	bool right = strcmp(c->password, RIGHT) == 0 && (strcmp(c->user, "alice") == 0 || strcmp(c->user, "bobby") == 0);
	enum reason verdict = right && !world.gone_users ? REASON_OK : REASON_AUTH_FAILED;

	(void)auth;
	must(!world.job && client && the_access()->fault == REASON_OK, "two logins at once");
	*job = NULL;
	*retry_after_s = 0;
	if (world.auth == SERVE_NOT)
		return auth_refusal(world.refusal, retry_after_s);
	if (world.auth == SERVE_AT_ONCE) {
		the_access()->known = verdict == REASON_OK;
		return verdict;
	}
	world.job = *job = malloc(sizeof(**job));
	must(*job != NULL, "out of memory");
	**job = (struct auth_job){ .done = done, .ctx = ctx, .verdict = verdict };
	loop_task_init(&(*job)->task, on_job, *job);
	loop_hold(loop);
	if (world.auth == SERVE_SOON)
		loop_post(loop, &(*job)->task);
	return REASON_AUTH_ERROR;
}

void auth_cancel(struct auth_job *job)
{
	if (job)
		job_free(job);
}

bool auth_knows(struct auth *auth, struct slice user)
{
	(void)auth;
	must(slice_eq(user, slice_of("alice")) || slice_eq(user, slice_of("bobby")), "a user who was never there");
	return !world.gone_users;
}

/* digit 0 to 7: the truth; above: refused */
static void tell_auth(unsigned digit)
{
	if (!world.job)
		return;
	if (digit >= 8)
		world.job->verdict = auth_refusal(digit, &world.job->retry_after_s);
	loop_post(world.loop, &world.job->task);
}

/* --- names --- */

#define OWN "9.9.9.9:443" /* where the proxy itself listens */
#define PUBLIC4 "93.184.216.34"

static const struct zone {
	const char *name;
	const char *addresses[DNS_ADDRESSES_MAX + 1];
} zones[] = {
	{ "a.test", { PUBLIC4 } },
	{ "b.test", { "2606:4700::1111", "93.184.216.35" } },
	{ "inside.test", { "10.0.0.1", "::1" } },
	{ "mixed.test", { "10.0.0.2", "93.184.216.36", "127.0.0.1", "2606:4700::1112" } },
	{ "many.test", { "93.0.0.1", "93.0.0.2", "93.0.0.3", "93.0.0.4", "93.0.0.5", "93.0.0.6", "93.0.0.7", "93.0.0.8", "93.0.0.9",
			 "93.0.0.10", "93.0.0.11", "93.0.0.12", "93.0.0.13", "93.0.0.14", "93.0.0.15", "93.0.0.16" } },
	{ "own.test", { "9.9.9.9" } },
};

static enum reason look_up(const char *name, struct dns_result *result)
{
	result->count = 0;
	for (size_t i = 0; i < sizeof(zones) / sizeof(zones[0]); i++)
		for (size_t k = 0; strcmp(zones[i].name, name) == 0 && zones[i].addresses[k]; k++)
			must(addr_from_literal(&result->addr[result->count++], slice_of(zones[i].addresses[k]), 0), "an address");
	return result->count > 0 ? REASON_OK : REASON_NAME_UNKNOWN;
}

struct dns_query {
	struct loop_task task;
	dns_done_fn *done;
	void *ctx;
	enum reason verdict;
	struct dns_result result;
};

static void on_query(void *ctx)
{
	struct dns_query *q = ctx;

	world.query = NULL;
	q->done(q->ctx, q->verdict, &q->result);
	free(q);
}

static enum reason dns_refusal(unsigned which)
{
	static const enum reason verdicts[] = { REASON_NAME_UNKNOWN, REASON_NAME_NO_ADDRESS, REASON_DNS_FAILED, REASON_DNS_TIMEOUT,
						REASON_DNS_BUSY, REASON_NO_MEMORY };

	return verdicts[which % 6];
}

enum reason dns_resolve(struct dns *dns, const char *name, dns_done_fn *done, void *ctx, struct dns_result *result,
	struct dns_query **query)
{
	(void)dns;
	must(the_access()->known && !world.query, "a name is looked up before the login");
	*query = NULL;
	if (world.dns == SERVE_NOT)
		return dns_refusal(world.refusal);
	if (world.dns == SERVE_AT_ONCE)
		return look_up(name, result);
	world.query = *query = malloc(sizeof(**query));
	must(*query != NULL, "out of memory");
	**query = (struct dns_query){ .done = done, .ctx = ctx };
	(*query)->verdict = look_up(name, &(*query)->result);
	loop_task_init(&(*query)->task, on_query, *query);
	if (world.dns == SERVE_SOON)
		loop_post(world.loop, &(*query)->task);
	return REASON_OK;
}

void dns_cancel(struct dns_query *query)
{
	must(query == world.query, "a query that is not there");
	loop_unpost(world.loop, &query->task);
	world.query = NULL;
	free(query);
}

/* digit 0 to 5: the truth; 6, 7: an inner address instead; above: refused */
static void tell_dns(unsigned digit)
{
	if (!world.query)
		return;
	if (digit >= 8) {
		world.query->verdict = dns_refusal(digit);
	} else if (digit >= 6) {
		world.query->verdict = look_up("inside.test", &world.query->result);
	}
	loop_post(world.loop, &world.query->task);
}

/* --- dialling --- */

struct dial {
	struct loop_task task;
	dial_done_fn *done;
	void *ctx;
	struct addr addresses[DNS_ADDRESSES_MAX];
	size_t count, which;
	enum reason verdict;
	bool told;
};

static int spare_fd = -1;

static void on_dial(void *ctx)
{
	struct dial copy = *(struct dial *)ctx;

	free(ctx);
	world.dialling = NULL;
	world.dialled = copy.addresses[copy.which];
	if (copy.verdict == REASON_OK) {
		must(world.fd < 0, "two targets at once");
		world.fd = fcntl(spare_fd, F_DUPFD_CLOEXEC, 3);
		must(world.fd >= 0, "out of descriptors");
	}
	copy.done(copy.ctx, copy.verdict, copy.verdict == REASON_OK ? world.fd : -1, &world.dialled);
}

static enum reason dial_refusal(unsigned which)
{
	static const enum reason verdicts[] = { REASON_DIAL_REFUSED, REASON_DIAL_RESET, REASON_NO_DESCRIPTORS, REASON_DIAL_SOURCE,
						REASON_DIAL_UNREACHABLE, REASON_DIAL_FAILED };

	return verdicts[which % 6];
}

/* Nothing that has a special use, for no rule names any, whatever the policy of the moment; and not the proxy itself. */
static bool may_be_dialled(const struct addr *a)
{
	char text[ADDR_TEXT_SIZE];
	const char *host = addr_host_text(a, text);

	return strncmp(host, "93.", 3) == 0 || strncmp(host, "2606:", 5) == 0 || (strcmp(host, "9.9.9.9") == 0 && addr_port(a) != 443);
}

struct dial *dial_start(struct loop *loop, const struct conf *conf, const struct addr *addresses, size_t count,
	dial_done_fn *done, void *ctx)
{
	struct dial *d;

	(void)conf;
	must(count > 0 && count <= DNS_ADDRESSES_MAX && !world.dialling && world.fd < 0, "what is dialled");
	must(the_access()->known, "somebody is dialled before the login");
	for (size_t i = 0; i < count; i++)
		must(may_be_dialled(&addresses[i]) && addr_port(&addresses[i]) == the_access()->port, "a forbidden address is dialled");
	if (world.dial == SERVE_NOT)
		return NULL;
	world.dialling = d = malloc(sizeof(*d));
	must(d != NULL, "out of memory");
	*d = (struct dial){ .done = done, .ctx = ctx, .count = count };
	memcpy(d->addresses, addresses, count * sizeof(*addresses));
	loop_task_init(&d->task, on_dial, d);
	if (world.dial != SERVE_WHEN_TOLD)
		loop_post(loop, &d->task);
	return d;
}

void dial_cancel(struct dial *d)
{
	must(d == world.dialling, "a dial that is not there");
	loop_unpost(world.loop, &d->task);
	world.dialling = NULL;
	free(d);
}

enum reason dial_failure(const struct dial *d, struct addr *address)
{
	*address = d->addresses[0];
	return world.refusal & 1 ? dial_refusal(world.refusal) : REASON_DIAL_TIMEOUT;
}

/* digit 0 to 7: connected, to one or another; above: refused */
static void tell_dial(unsigned digit)
{
	if (!world.dialling)
		return;
	world.dialling->which = digit % world.dialling->count;
	if (digit >= 8)
		world.dialling->verdict = dial_refusal(digit);
	loop_post(world.loop, &world.dialling->task);
}

/* --- the target's socket --- */

struct stream *tcp_stream_new(struct loop *loop, int fd, unsigned linger_ms)
{
	struct access_log *a = the_access();
	void *memory = mem_alloc(1);

	must(fd == world.fd && fd >= 0 && linger_ms > 0 && !world.target.m, "another descriptor than was dialled");
	must(a->known && a->open && (a->open_good || world.lax_records) && !a->opened && a->lasts == 0,
	    "a tunnel that is not on record");
	if (!memory || world.stream == SERVE_NOT) {
		mem_free(memory);
		return NULL;
	}
	mem_free(memory);
	must(close(fd) == 0, "the descriptor is closed");
	world.fd = -1;
	a->opened = true;
	far_attach(&world.target, mem_stream_new(loop));
	return &world.target.m->base;
}

/* The descriptor was closed by whoever had it. */
static void must_be_closed(void)
{
	if (world.fd < 0)
		return;
	must(fcntl(world.fd, F_GETFD) < 0, "a descriptor is left open");
	world.fd = -1;
}

/* --- records --- */

static void check_counts(struct access_log *a, const struct audit_event *e)
{
	must(e->bytes_up >= a->up && e->bytes_down >= a->down, "counts that go back");
	a->up = e->bytes_up;
	a->down = e->bytes_down;
	if (!a->opened) {
		must(e->bytes_up == 0 && e->bytes_down == 0, "bytes without a tunnel");
		return;
	}
	must(a->end + e->bytes_up == far_taken(&world.client) || (world.client.broken && e->bytes_up == 0),
	    "bytes of the client in the record");
	must(e->bytes_down == far_taken(&world.target), "bytes of the target in the record");
}

static enum reason last_record(struct access_log *a, const struct audit_event *e)
{
	must(a->lasts++ == 0, "a second last record");
	/* who has given up waiting does not know that there is no open */
	must((e->kind == AUDIT_CLOSE) == a->open || a->open_failed, "close without open, or deny behind it");
	a->reason = e->reason;
	a->status = e->status;
	must(e->status == reason_row(e->reason)->status || (e->status == 200 && a->opened), "status and reason");
	must_be_closed();
	return world.audit == SERVE_NOT ? REASON_AUDIT_UNAVAILABLE : REASON_OK;
}

static enum reason open_record(struct access_log *a, const struct audit_event *e, audit_done_fn *done, void *ctx)
{
	must(!a->open && a->lasts == 0 && !a->opened && done, "open twice");
	must(e->address && addr_equal(e->address, &world.dialled) && e->rule && e->user, "what open says");
	if (world.audit == SERVE_NOT)
		return world.refusal & 1 ? REASON_AUDIT_UNAVAILABLE : REASON_NO_MEMORY;
	a->open = true;
	if (world.audit == SERVE_AT_ONCE) { /* the writer's thread may be that quick */
		a->open_good = true;
		done(ctx, REASON_OK);
		return REASON_OK;
	}
	must(world.late_n < LATE_MAX, "too many records");
	world.late[world.late_n++] = (struct late_record){ done, ctx, world.accesses - 1 };
	return REASON_OK;
}

enum reason audit_submit(struct audit *audit, const struct audit_event *event, audit_done_fn *done, void *ctx)
{
	static char line[AUDIT_LINE_MAX];
	struct access_log *a = the_access();
	size_t n = audit_format(event, "node", line, sizeof(line));

	(void)audit;
	must(n > 0, "a record without a line");
	must_be_clean(line, n, "a password in a record");
	must(event->user || (event->kind == AUDIT_DENY && !done), "a stranger's record");
	must((event->user != NULL) == a->known, "whose record it is");
	if (a->id[0] == '\0')
		memcpy(a->id, event->id, sizeof(a->id));
	must(strcmp(a->id, event->id) == 0 && (world.accesses < 2 || strcmp(a[-1].id, a->id) != 0), "the id of an access");
	switch (event->kind) {
	case AUDIT_OPEN:
		return open_record(a, event, done, ctx);
	case AUDIT_PROGRESS:
		must(a->opened && a->lasts == 0 && !done, "progress of no tunnel");
		a->progresses++;
		check_counts(a, event);
		return REASON_OK;
	case AUDIT_CLOSE:
		check_counts(a, event);
		return last_record(a, event);
	default:
		return last_record(a, event);
	}
}

/* The writer has come to the oldest record. digit 0 to 7: it is written; above: it is not */
static void tell_audit(unsigned digit)
{
	struct late_record r;

	if (world.late_n == 0)
		return;
	r = world.late[0];
	memmove(world.late, world.late + 1, --world.late_n * sizeof(r));
	/* one whose request is over is nobody's any more */
	if (world.lax_records)
		digit = 0; /* the audit never says no then */
	if (digit < 8)
		world.access[r.access].open_good = true;
	else
		world.access[r.access].open_failed = true;
	r.done(r.ctx, digit < 8 ? REASON_OK : REASON_AUDIT_UNAVAILABLE);
}

#endif
