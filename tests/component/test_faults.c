/* Whole accesses with one thing going wrong, for every thing that can: a client over TLS and TCP, the listener, the
 * handshake, a login, CONNECT, a dial, the record, an echo both ways, both half-closes, the last record.
 *
 * A loop lets the first call of a kind fail, then the second, and so on, until an access makes so few of these calls
 * that none is hit. Whatever is hit: the access ends by itself, and with one reason; whoever got a 200 has an `open`;
 * what arrived is a beginning of what was sent; no descriptor, connection or request is left; and the next access, to
 * which nothing happens, is served. */
#include "adit/base/fault.h"

#include "adit/audit/audit.h"
#include "adit/base/clock.h"
#include "adit/http/h1.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"
#include "audit/audit_priv.h"
#include "component/turning.h"
#include "server/conn.h"
#include "server/listener.h"
#include "unit/tls/pki.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ALICE "YWxpY2U6c2VjcmV0" /* alice:secret */

enum { SHORT_ACCESS = 20000, LONG_ACCESS = 3 << 20, CHUNK = 16384, PATIENCE_MS = 15000, LINES = 1 << 21 };

/* --- the proxy --- */

static struct worker_parts worker;
static struct loop *loop;
static struct conf *conf;
static struct tls_tickets *tickets;
static struct listener *listener;
static uint16_t port, target_port;
static int target;
static char dir[64];
static char relay_buffer[65536];

static void write_file(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	cr_assert_not_null(f);
	cr_assert_geq(fputs(text, f), 0);
	fclose(f);
}

static void on_bad_user(void *ctx, unsigned line, const char *message)
{
	(void)ctx;
	cr_assert(false, "line %u: %s", line, message);
}

static int listen_here(uint16_t *where)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&at, n) == 0 && listen(fd, 64) == 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &n), 0);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	*where = ntohs(at.sin_port);
	return fd;
}

static void on_accept(void *ctx, int fd, const struct addr *peer)
{
	(void)ctx;
	if (limits_enter(worker.limits, conf, peer) == REASON_OK)
		conn_accept(&worker, fd, peer, &(struct listen_options){ .close_after_refusal = true, .http2 = true });
	else
		close(fd);
}

static void open_proxy(const char *on_failure)
{
	char certificates[512], chain[PKI_PATH_SIZE], key[PKI_PATH_SIZE], error[256], hosts[128];
	struct conf_option options[] = {
		{ "policy.rules", "[{name: lab, action: allow, to: [loopback], ports: [any]}]" },
		{ "tls.certificates", certificates },
		{ "dns.servers", "127.0.0.1" },
		{ "auth.threads", "1" },
		{ "auth.cache", "10ms" },
		{ "audit.on_failure", on_failure },
		{ "limits.handshakes_per_prefix", "off" },
		/* far away: an access that only a deadline would end has not ended by itself */
		{ "deadlines.handshake", "10m" }, { "deadlines.head", "10m" }, { "deadlines.auth", "10m" },
		{ "deadlines.dial", "10m" }, { "deadlines.dial_address", "10m" }, { "deadlines.linger", "1s" },
	};
	struct conf_errors errors = { 0 };
	struct tunnel_env *env = &worker.env;
	struct addr own;
	char own_text[32];

	(void)signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_LEVEL_ERR);
	pki_setup();
	pki_make("proxy", "P-256", "DNS:proxy.test");
	snprintf(certificates, sizeof(certificates), "[{chain: \"%s\", key: \"%s\"}]", pki_path(chain, "proxy.crt"),
		pki_path(key, "proxy.key"));
	snprintf(dir, sizeof(dir), "/tmp/adit-faults-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	write_file("hosts", "127.0.0.1 target.test\n");
	snprintf(hosts, sizeof(hosts), "%s/hosts", dir);

	loop = loop_new();
	conf = conf_load(NULL, options, sizeof(options) / sizeof(options[0]), &errors);
	cr_assert(loop && conf, "%s", errors.count ? errors.text[0] : "");
	target = listen_here(&target_port);
	int fd = listen_here(&port);
	snprintf(own_text, sizeof(own_text), "127.0.0.1:%u", port);
	cr_assert(addr_parse(&own, slice_of(own_text)));

	*env = (struct tunnel_env){ .loop = loop, .conf = conf, .buffer = relay_buffer, .buffer_bytes = sizeof(relay_buffer) };
	tunnels_init(env);
	env->policy = policy_new(conf, &own, 1, &own, 1);
	env->auth = auth_new(conf, users_parse(slice_of("alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"), on_bad_user, NULL));
	env->dns = dns_new(loop, conf, dns_hosts_load(hosts));
	env->audit = audit_new(&(struct audit_config){ .directory = dir, .on_failure_allow = strcmp(on_failure, "allow") == 0 },
		error, sizeof(error));
	tickets = tls_tickets_new(NULL, 3600000, error, sizeof(error));
	worker.tls = tls_context_new(conf, NULL, tickets, &errors);
	worker.wire = calloc(1, sizeof(*worker.wire));
	worker.limits = limits_new();
	TAILQ_INIT(&worker.conns);
	listener = listener_start(loop, fd, on_accept, NULL);
	cr_assert(env->policy && env->auth && env->dns && env->audit && tickets && worker.tls && worker.limits && listener,
		"%s %s", error, errors.count ? errors.text[0] : "");
}

static void remove_dir(void)
{
	static const char *const names[] = { "hosts", "access.jsonl", "strangers.jsonl", "users/alice.jsonl", "users", "" };
	char path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		if (unlink(path) != 0)
			(void)rmdir(path);
	}
	pki_teardown();
}

static void close_proxy(void)
{
	struct tunnel_env *env = &worker.env;

	listener_stop(listener);
	cr_assert(audit_stop(env->audit));
	auth_stop(env->auth);
	UNTIL(loop, TAILQ_EMPTY(&worker.conns) && loop_held(loop) == 0);
	dns_free(env->dns);
	auth_free(env->auth);
	audit_free(env->audit);
	policy_unref(env->policy);
	tls_context_unref(worker.tls);
	tls_tickets_unref(tickets);
	limits_free(worker.limits);
	free(worker.wire);
	loop_free(loop);
	conf_unref(conf);
	close(target);
}

/* --- one access, as its client and its target see it --- */

struct access_plan {
	const char *host;
	int version; /* of TLS; 0: the highest */
	size_t bytes;
	bool offers_h2; /* and speaks HTTP/1.1 all the same */
};

struct visit {
	const struct access_plan *plan;
	SSL *ssl;
	int fd, far; /* far: the target's end; -1: none (any more) */
	uint16_t client_port;
	enum { SHAKING, ASKING, LISTENING, TALKING, CLOSING, OVER } phase;
	char answer[2048];
	size_t answer_n;
	int status; /* 0: none */
	size_t sent, got; /* of the plan's bytes */
	bool wrong; /* a byte that was not sent */
	bool ended_well; /* close_notify came */
	bool said_end; /* ours went */
	/* the target's */
	char echo[CHUNK];
	size_t echo_at, echo_n;
	bool far_eof;
};

static SSL_CTX *client_context;

static char pattern_at(size_t i)
{
	return (char)(i * 31 + (i >> 8) * 7 + (i >> 16));
}

static void visit_open(struct visit *v, const struct access_plan *plan)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(at);
	int on = 1;

	memset(v, 0, sizeof(*v));
	v->plan = plan;
	v->far = -1;
	v->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	cr_assert_geq(v->fd, 0);
	(void)setsockopt(v->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	cr_assert(connect(v->fd, (struct sockaddr *)&at, n) == 0 || errno == EINPROGRESS);
	cr_assert_eq(getsockname(v->fd, (struct sockaddr *)&at, &n), 0);
	v->client_port = ntohs(at.sin_port);
	v->ssl = SSL_new(client_context);
	cr_assert_not_null(v->ssl);
	if (plan->version)
		(void)SSL_set_max_proto_version(v->ssl, plan->version);
	if (plan->offers_h2)
		(void)SSL_set_alpn_protos(v->ssl, (const unsigned char *)"\x02h2", 3);
	(void)SSL_set_fd(v->ssl, v->fd);
	SSL_set_connect_state(v->ssl);
}

/* True: something moved. */
static bool visit_lost(struct visit *v, int ret)
{
	int why = SSL_get_error(v->ssl, ret);

	ERR_clear_error();
	if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE)
		return false;
	v->ended_well = why == SSL_ERROR_ZERO_RETURN;
	v->phase = OVER;
	return true;
}

static bool visit_ask(struct visit *v)
{
	char head[256];
	int n = snprintf(head, sizeof(head), "CONNECT %s:%u HTTP/1.1\r\nHost: %s:%u\r\nProxy-Authorization: Basic " ALICE "\r\n\r\n",
		v->plan->host, target_port, v->plan->host, target_port);
	int ret = SSL_write(v->ssl, head, n);

	if (ret <= 0)
		return visit_lost(v, ret);
	v->phase = LISTENING;
	return true;
}

static bool visit_listen(struct visit *v)
{
	int ret = SSL_read(v->ssl, v->answer + v->answer_n, 1);

	if (ret <= 0)
		return visit_lost(v, ret);
	cr_assert_lt(++v->answer_n, sizeof(v->answer));
	if (v->answer_n >= 4 && memcmp(v->answer + v->answer_n - 4, "\r\n\r\n", 4) == 0) {
		cr_assert_eq(sscanf(v->answer, "HTTP/1.1 %d ", &v->status), 1, "%s", v->answer);
		v->phase = v->status == 200 ? TALKING : CLOSING;
	}
	return true;
}

static bool visit_take(struct visit *v)
{
	char buf[CHUNK];
	int ret = SSL_read(v->ssl, buf, sizeof(buf));

	if (ret <= 0)
		return visit_lost(v, ret);
	for (int i = 0; v->status == 200 && i < ret; i++)
		v->wrong = v->wrong || buf[i] != pattern_at(v->got + (size_t)i);
	v->got += (size_t)ret;
	return true;
}

static bool visit_talk(struct visit *v)
{
	char buf[CHUNK];
	size_t n = v->plan->bytes - v->sent < sizeof(buf) ? v->plan->bytes - v->sent : sizeof(buf);
	bool moved = false;
	int ret;

	if (n > 0) {
		for (size_t i = 0; i < n; i++)
			buf[i] = pattern_at(v->sent + i);
		ret = SSL_write(v->ssl, buf, (int)n);
		if (ret > 0)
			v->sent += (size_t)ret;
		moved = ret > 0 || visit_lost(v, ret);
	} else if (!v->said_end) {
		/* close_notify, and no FIN: what is on its way still comes */
		ret = SSL_shutdown(v->ssl);
		v->said_end = ret >= 0;
		moved = ret >= 0 || visit_lost(v, ret);
	}
	return (v->phase == TALKING && visit_take(v)) || moved;
}

static bool visit_step(struct visit *v)
{
	int ret;

	switch (v->phase) {
	case SHAKING:
		ret = SSL_connect(v->ssl);
		if (ret == 1)
			v->phase = ASKING;
		return ret == 1 || visit_lost(v, ret);
	case ASKING:
		return visit_ask(v);
	case LISTENING:
		return visit_listen(v);
	case TALKING:
		return visit_talk(v);
	case CLOSING:
		return visit_take(v);
	default:
		return false;
	}
}

static void far_close(struct visit *v)
{
	close(v->far);
	v->far = -1;
}

static bool far_step(struct visit *v)
{
	ssize_t n;

	if (v->far < 0) {
		v->far = accept4(target, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		return v->far >= 0;
	}
	if (v->echo_at == v->echo_n && !v->far_eof) {
		n = recv(v->far, v->echo, sizeof(v->echo), 0);
		if (n < 0 && errno != EAGAIN)
			far_close(v);
		v->echo_at = 0;
		v->echo_n = n > 0 ? (size_t)n : 0;
		v->far_eof = n == 0;
		if (n < 0)
			return errno != EAGAIN;
	}
	if (v->echo_at < v->echo_n) {
		n = send(v->far, v->echo + v->echo_at, v->echo_n - v->echo_at, MSG_NOSIGNAL);
		if (n > 0)
			v->echo_at += (size_t)n;
		else if (errno != EAGAIN)
			far_close(v);
		return n > 0;
	}
	far_close(v); /* FIN: all is said */
	return true;
}

static void turn(void)
{
	fault_spare(false);
	loop_turn(loop);
	fault_spare(true);
}

static bool proxy_is_quiet(void)
{
	return TAILQ_EMPTY(&worker.conns) && loop_held(loop) == 0 && stats_get(STAT_REQUESTS) == 0;
}

static void visit_run(struct visit *v, const char *what)
{
	uint64_t until = clock_mono_ms() + PATIENCE_MS;

	for (;;) {
		bool moved;

		turn();
		moved = visit_step(v);
		moved = far_step(v) || moved;
		if (v->phase == OVER && v->fd >= 0) {
			SSL_free(v->ssl);
			v->ssl = NULL;
			close(v->fd);
			v->fd = -1;
			moved = true;
		}
		/* a target whose proxy is gone gets its end at the next look */
		if (v->phase == OVER && v->far < 0 && proxy_is_quiet())
			return;
		cr_assert_lt(clock_mono_ms(), until, "%s: no end: client phase %d, status %d, target %d, connections %lld, requests %lld",
			what, v->phase, v->status, v->far, stats_get(STAT_CONNECTIONS), stats_get(STAT_REQUESTS));
		if (!moved)
			poll(NULL, 0, 1);
	}
}

/* --- what must hold --- */

static char lines[LINES];

static const char *const files[] = { "access.jsonl", "strangers.jsonl" };

enum { FILES = sizeof(files) / sizeof(files[0]) };

/* Where the file ends. from >= 0: what it holds from there on goes behind what stands in `lines`. */
static long file_end(const char *name, long from)
{
	size_t n = strlen(lines);
	char path[128];
	FILE *f;
	long end;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return 0;
	cr_assert_eq(fseek(f, from < 0 ? 0 : from, from < 0 ? SEEK_END : SEEK_SET), 0);
	if (from >= 0) {
		n += fread(lines + n, 1, sizeof(lines) - 1 - n, f);
		lines[n] = '\0';
	}
	end = ftell(f);
	fclose(f);
	return end;
}

/* Records in `lines` of the client. */
static unsigned count_records(const struct visit *v, const char *kind)
{
	char of_client[48], of_kind[48];
	unsigned n = 0;
	char *line, *rest = lines;

	snprintf(of_client, sizeof(of_client), "\"client_port\":%u,", v->client_port);
	snprintf(of_kind, sizeof(of_kind), "\"kind\":\"%s\"", kind);
	while ((line = rest) && *line) {
		rest = strchr(line, '\n');
		if (rest)
			*rest = '\0';
		n += strstr(line, of_client) && strstr(line, of_kind);
		if (rest)
			*rest++ = '\n';
	}
	return n;
}

static unsigned open_but_records(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;
	char to[256];

	cr_assert_not_null(d);
	for (struct dirent *e = readdir(d); e; e = readdir(d)) {
		ssize_t got = readlinkat(dirfd(d), e->d_name, to, sizeof(to) - 1);

		n += got > 0 && strncmp(to, dir, strlen(dir)) != 0;
	}
	closedir(d);
	return n;
}

static long long all_reasons(void)
{
	long long n = 0;

	for (int r = 0; r < REASON_COUNT; r++)
		n += stats_reason_get((enum reason)r);
	return n;
}

struct before {
	long long reasons, unwritten;
	unsigned descriptors;
	long ends[FILES];
};

/* Records that are counted instead. */
static long long unwritten(void)
{
	return stats_get(STAT_AUDIT_FAILED) + stats_get(STAT_AUDIT_SUPPRESSED);
}

static struct before look(void)
{
	struct before b = { all_reasons(), unwritten(), open_but_records(), { 0 } };

	for (size_t i = 0; i < FILES; i++)
		b.ends[i] = file_end(files[i], -1);
	return b;
}

/* Ports come back: only what is new counts. */
static bool record_has_ended(const struct visit *v, const struct before *b)
{
	unsigned n;

	lines[0] = '\0';
	for (size_t i = 0; i < FILES; i++)
		(void)file_end(files[i], b->ends[i]);
	n = count_records(v, "close") + count_records(v, "deny");
	cr_assert_leq(n, 1u, "%s", lines);
	return n == 1;
}

/* Every access that was answered has its last record, and its first if the answer was 200. */
static void expect_records(const struct visit *v, const struct before *b, const char *what)
{
	uint64_t until = clock_mono_ms() + PATIENCE_MS;

	if (v->status == 0)
		return;
	while (!record_has_ended(v, b) && unwritten() == b->unwritten) {
		cr_assert_lt(clock_mono_ms(), until, "%s: status %d of client port %u and no last record: %s", what,
			v->status, v->client_port, lines);
		audit_kick(worker.env.audit);
		poll(NULL, 0, 1);
	}
	if (v->status == 200 && !conf->audit.on_failure_allow)
		cr_assert_eq(count_records(v, "open"), 1u, "%s: a 200 without its record: %s", what, lines);
}

static void expect_order(const struct visit *v, const struct before *b, const char *what)
{
	cr_assert_not(v->wrong, "%s: wrong bytes", what);
	if (v->status == 200)
		cr_assert_leq(v->got, v->sent, "%s", what);
	else
		cr_assert(v->status == 0 || v->status >= 400, "%s: %s", what, v->answer);
	cr_assert_eq(all_reasons(), b->reasons + 1, "%s: %lld reasons", what, all_reasons() - b->reasons);
	cr_assert_eq(stats_get(STAT_TUNNELS), 0, "%s", what);
	cr_assert_eq(stats_get(STAT_CONNECTIONS), 0, "%s", what);
	cr_assert_eq(stats_get(STAT_UNAUTHENTICATED), 0, "%s", what);
	cr_assert_eq(open_but_records(), b->descriptors, "%s: %u descriptors, %u before", what, open_but_records(),
		b->descriptors);
}

static bool served(const struct visit *v)
{
	return v->status == 200 && v->got == v->plan->bytes && v->ended_well;
}

enum {
	HARMLESS = 1, /* nobody notices: it is served all the same */
	REOPENED = 2, /* records' files are opened anew meanwhile */
};

/* One access to which this happens. Returns how often it did. */
static unsigned long spoilt_access(const struct access_plan *plan, const char *specification, unsigned flags,
	bool *was_served)
{
	struct before before = look();
	uint64_t began = clock_mono_ms();
	struct visit v;
	unsigned long hits;

	cr_assert(fault_set(specification), "%s", specification);
	if (flags & REOPENED)
		audit_reopen(worker.env.audit);
	visit_open(&v, plan);
	visit_run(&v, specification);
	expect_records(&v, &before, specification);
	hits = fault_hits();
	cr_assert(fault_set(NULL));
	expect_order(&v, &before, specification);
	*was_served = served(&v) && unwritten() == before.unwritten;
	if (clock_mono_ms() - began > 1000)
		cr_log_info("%s: took %lu ms", specification, (unsigned long)(clock_mono_ms() - began));
	return hits;
}

/* Nothing of what happened before is felt. A file that failed is tried again after a second. */
static void sound_access(const char *what)
{
	static const struct access_plan plan = { "127.0.0.1", 0, 100, false };
	uint64_t until = clock_mono_ms() + PATIENCE_MS;
	bool good;

	for (;;) {
		(void)spoilt_access(&plan, "", 0, &good);
		if (good)
			return;
		cr_assert_lt(clock_mono_ms(), until, "after %s: not served", what);
		poll(NULL, 0, 20);
	}
}

/* The first such call fails, then the second, ... */
static void every(const struct access_plan *plan, const char *call, const char *how, unsigned flags)
{
	char specification[64];
	unsigned long n = 0, hits;
	bool good;

	do {
		snprintf(specification, sizeof(specification), "%s:%s@%lu", call, how, ++n);
		hits = spoilt_access(plan, specification, flags, &good);
		cr_assert(good || (hits > 0 && !(flags & HARMLESS)), "%s: not served", specification);
		sound_access(specification);
	} while (hits > 0);
	cr_assert_gt(n, 1ul, "%s:%s: no such call", call, how);
	cr_log_info("%s:%s: %lu", call, how, n - 1);
}

static void begin(void)
{
	fault_spare(true);
	client_context = SSL_CTX_new(TLS_client_method());
	cr_assert_not_null(client_context);
}

static void finish(void)
{
	SSL_CTX_free(client_context);
	remove_dir();
}

TestSuite(faults, .init = begin, .fini = finish, .timeout = 280);

static const struct access_plan plain = { "target.test", 0, SHORT_ACCESS, false };
static const struct access_plan judged = { "127.0.0.1", 0, SHORT_ACCESS, true };
static const struct access_plan tls12 = { "127.0.0.1", TLS1_2_VERSION, SHORT_ACCESS, false };

Test(faults, memory_of_ours)
{
	open_proxy("deny");
	sound_access("nothing");
	every(&plain, "alloc", "fail", 0);
	every(&plain, "alloc", "fail", REOPENED);
	every(&judged, "alloc", "fail", 0);
	close_proxy();
}

Test(faults, memory_of_libevent)
{
	open_proxy("deny");
	sound_access("nothing");
	every(&plain, "libevent", "fail", 0);
	every(&judged, "libevent", "fail", 0);
	close_proxy();
}

Test(faults, memory_of_openssl)
{
	open_proxy("deny");
	sound_access("nothing");
	every(&plain, "openssl", "fail", 0);
	every(&judged, "openssl", "fail", 0);
	close_proxy();
}

Test(faults, memory_of_openssl_with_tls_1_2)
{
	open_proxy("deny");
	sound_access("nothing");
	every(&tls12, "openssl", "fail", 0);
	close_proxy();
}

static const char *const harmless[] = { "short", "EINTR", "EAGAIN" };

Test(faults, receiving)
{
	static const char *const hows[] = { "ECONNRESET", "ETIMEDOUT", "ENOMEM" };

	open_proxy("deny");
	sound_access("nothing");
	for (size_t i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++) {
		every(&plain, "recv", harmless[i], HARMLESS);
		every(&judged, "recv", harmless[i], HARMLESS);
		every(&tls12, "recv", harmless[i], HARMLESS);
	}
	for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++) {
		every(&plain, "recv", hows[i], 0);
		every(&judged, "recv", hows[i], 0);
		every(&tls12, "recv", hows[i], 0);
	}
	close_proxy();
}

Test(faults, sending)
{
	static const char *const hows[] = { "ECONNRESET", "EPIPE", "ENOBUFS" };

	open_proxy("deny");
	sound_access("nothing");
	for (size_t i = 0; i < sizeof(harmless) / sizeof(harmless[0]); i++) {
		every(&plain, "send", harmless[i], HARMLESS);
		every(&tls12, "send", harmless[i], HARMLESS);
	}
	for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++) {
		every(&plain, "send", hows[i], 0);
		every(&tls12, "send", hows[i], 0);
	}
	close_proxy();
}

Test(faults, accepting)
{
	static const char *const hows[] = { "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPROTO", "EINTR", "EAGAIN", "EPERM" };

	open_proxy("deny");
	sound_access("nothing");
	log_set_level(LOG_LEVEL_ERR);
	for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++)
		every(&plain, "accept", hows[i], HARMLESS);
	close_proxy();
}

Test(faults, dialling)
{
	static const char *const sockets[] = { "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES" };
	static const char *const connects[] = { "EADDRNOTAVAIL", "ENOBUFS", "ENOMEM", "EAGAIN", "ENETUNREACH", "EPERM" };

	open_proxy("deny");
	sound_access("nothing");
	for (size_t i = 0; i < sizeof(sockets) / sizeof(sockets[0]); i++)
		every(&plain, "socket", sockets[i], 0);
	for (size_t i = 0; i < sizeof(connects) / sizeof(connects[0]); i++)
		every(&plain, "connect", connects[i], 0);
	every(&plain, "connect", "EINTR", HARMLESS);
	close_proxy();
}

Test(faults, waiting)
{
	open_proxy("deny");
	sound_access("nothing");
	every(&plain, "epoll", "ENOMEM", 0);
	every(&plain, "epoll", "ENOSPC", 0);
	every(&plain, "wait", "EINTR", HARMLESS);
	close_proxy();
}

static void on_far_deadline(void *ctx)
{
	(void)ctx;
}

static void on_task(void *ctx)
{
	*(bool *)ctx = true;
}

/* What is posted runs, though the timer that announces it finds no memory: libevent's heap has room for 8, then 16. */
Test(faults, a_task_needs_no_memory)
{
	struct deadline far[33];
	bool ran, hit = false;

	loop = loop_new();
	cr_assert_not_null(loop);
	for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++) {
		struct loop_task task;

		deadline_init(&far[i], loop, on_far_deadline, NULL);
		cr_assert(deadline_set(&far[i], 3600000));
		loop_task_init(&task, on_task, &ran);
		ran = false;
		cr_assert(fault_set("libevent:fail@1+"));
		fault_spare(false);
		loop_post(loop, &task);
		fault_spare(true);
		hit = hit || fault_hits() > 0;
		cr_assert(fault_set(NULL));
		loop_turn(loop);
		cr_expect(ran, "beside %zu deadlines", i + 1);
		loop_unpost(loop, &task);
	}
	cr_assert(hit, "the heap never grew here");
	for (size_t i = 0; i < sizeof(far) / sizeof(far[0]); i++)
		deadline_fini(&far[i]);
	loop_free(loop);
	pki_setup();
}

static const char *const disk_errors[] = { "ENOSPC", "EIO", "EDQUOT", "EMFILE", "EACCES" };

Test(faults, recording)
{
	open_proxy("deny");
	sound_access("nothing");
	for (size_t i = 0; i < 3; i++)
		every(&plain, "write", disk_errors[i], 0);
	every(&plain, "write", "EINTR", HARMLESS);
	every(&plain, "write", "short", HARMLESS);
	for (size_t i = 0; i < sizeof(disk_errors) / sizeof(disk_errors[0]); i++)
		every(&plain, "open", disk_errors[i], REOPENED);
	close_proxy();
}

Test(faults, recording_when_failure_allows)
{
	long long failed, tunnels;
	bool good;

	open_proxy("allow");
	sound_access("nothing");
	for (size_t i = 0; i < 3; i++)
		every(&plain, "write", disk_errors[i], 0);
	failed = stats_get(STAT_AUDIT_FAILED);
	tunnels = stats_get(STAT_TUNNELS_OPENED);
	for (int i = 0; i < 5; i++)
		(void)spoilt_access(&plain, "write:ENOSPC@1+", 0, &good);
	cr_expect_eq(stats_get(STAT_TUNNELS_OPENED), tunnels + 5, "a full disk refused somebody");
	cr_expect_geq(stats_get(STAT_AUDIT_FAILED), failed + 5, "and nobody counted it");
	sound_access("write:ENOSPC@1+");
	close_proxy();
}

/* Not once, but all the time. */
Test(faults, always)
{
	static const struct access_plan long_13 = { "target.test", 0, LONG_ACCESS, false };
	static const struct access_plan long_12 = { "127.0.0.1", TLS1_2_VERSION, LONG_ACCESS, false };
	static const struct {
		const struct access_plan *plan;
		const char *specification;
	} rows[] = {
		{ &long_13, "tls:borders" },
		{ &long_12, "tls:borders" },
		{ &long_13, "tls:borders,send:EAGAIN=3,recv:short=7" },
		{ &long_12, "tls:borders,send:short=50,recv:EINTR=5" },
		{ &long_13, "send:EAGAIN=2,recv:EAGAIN=2,accept:EINTR=2" },
		{ &long_12, "send:EINTR=2,recv:EINTR=2,wait:EINTR=2,write:EINTR=2" },
		{ &plain, "recv:short=1" },
		{ &tls12, "recv:short=1" },
		{ &plain, "send:short=1,write:short=2" },
		{ &tls12, "send:short=1" },
	};
	bool good;

	open_proxy("deny");
	sound_access("nothing");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cr_assert_gt(spoilt_access(rows[i].plan, rows[i].specification, 0, &good), 0ul, "%s", rows[i].specification);
		cr_assert(good, "%s: not served in full", rows[i].specification);
		sound_access(rows[i].specification);
	}
	close_proxy();
}
