/* The parts of a proxy put together as a worker does it, around one client. */
#include "component/site.h"

#include "adit/log/log.h"
#include "adit/log/stats.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct loop *loop;
struct conf *conf;
struct tunnel_env env;
struct nameserver *ns;
static char dir[64], relay_buffer[4096];
static bool audit_stopped;
int target;
uint16_t target_port;

static const struct ns_zone zones[] = {
	{ "nodata.test", { .kind = NS_NODATA }, { .kind = NS_NODATA } },
	{ "broken.test", { .kind = NS_SERVFAIL }, { .kind = NS_SERVFAIL } },
	{ "silent.test", { .kind = NS_SILENT }, { .kind = NS_SILENT } },
	{ NULL, { .kind = NS_NODATA }, { .kind = NS_NODATA } },
};

/* --- the proxy's parts --- */

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

void on_bad_user(void *ctx, unsigned line, const char *message)
{
	(void)ctx;
	cr_assert(false, "line %u: %s", line, message);
}

static struct users *make_users(void)
{
	/* each has the password "secret"; the last one's takes half a second of real time */
	static const char text[] = "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"
				   "bob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"
				   "slow:$2y$13$abcdefghijklmnopqrstuuyd9ipDgNyTEie103vumVuve9x.2WtxW\n";

	return users_parse(slice_of(text), on_bad_user, NULL);
}

int listen_here(uint16_t *port, int backlog)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	cr_assert(fd >= 0 && bind(fd, (struct sockaddr *)&at, n) == 0 && listen(fd, backlog) == 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&at, &n), 0);
	*port = ntohs(at.sin_port);
	return fd;
}

void open_site(const struct conf_option *extra, size_t extra_n)
{
	struct conf_option options[16] = {
		{ "policy.rules", "[{name: no, action: deny, to: [denied.test], ports: [any]},"
				  "{name: lab, action: allow, to: [loopback], ports: [any]},"
				  "{name: web, action: allow, to: [any]}]" },
		{ "dns.servers", NULL },
		{ "auth.threads", "1" },
		{ "auth.throttle.failures", "2" },
	};
	struct conf_errors errors = { 0 };
	struct addr own, server;
	char text[ADDR_TEXT_SIZE], error[256], hosts[128];

	snprintf(dir, sizeof(dir), "/tmp/adit-tunnel-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	write_file("hosts", "127.0.0.1 target.test\n10.0.0.1 inside.test\n");
	loop = loop_new_manual();
	cr_assert_not_null(loop);
	ns = ns_new(loop_base(loop), zones);
	ns_address(ns, &server);
	options[1].value = addr_text(&server, text);
	for (size_t i = 0; i < extra_n; i++)
		options[4 + i] = extra[i];
	conf = conf_load(NULL, options, 4 + extra_n, &errors);
	cr_assert_not_null(conf, "%s", errors.count ? errors.text[0] : "");
	target = listen_here(&target_port, 16);

	cr_assert(addr_parse(&own, slice_of(OWN)));
	snprintf(hosts, sizeof(hosts), "%s/hosts", dir);
	env = (struct tunnel_env){ .loop = loop, .conf = conf, .buffer = relay_buffer, .buffer_bytes = sizeof(relay_buffer) };
	tunnels_init(&env);
	env.policy = policy_new(conf, &own, 1, &own, 1);
	env.auth = auth_new(conf, make_users());
	env.dns = dns_new(loop, conf, dns_hosts_load(hosts));
	env.audit = audit_new(&(struct audit_config){ .directory = dir }, error, sizeof(error));
	env.pool = pool_new(loop);
	cr_assert(env.policy && env.auth && env.dns && env.audit && env.pool, "%s", error);
	audit_stopped = false;
}

void stop_audit(void)
{
	if (!audit_stopped)
		cr_assert(audit_stop(env.audit));
	audit_stopped = true;
	loop_turn(loop);
}

static void remove_dir(void)
{
	char command_path[160];
	static const char *const names[] = { "hosts", "access.jsonl", "strangers.jsonl", "users/alice.jsonl",
		"users/bob.jsonl", "users/slow.jsonl", "users" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(command_path, sizeof(command_path), "%s/%s", dir, names[i]);
		if (unlink(command_path) != 0)
			(void)rmdir(command_path);
	}
	cr_expect_eq(rmdir(dir), 0);
}

void close_site(void)
{
	stop_audit();
	auth_stop(env.auth);
	pool_free(env.pool);
	UNTIL(loop, loop_held(loop) == 0);
	dns_free(env.dns);
	auth_free(env.auth);
	audit_free(env.audit);
	policy_unref(env.policy);
	ns_free(ns);
	loop_free(loop);
	conf_unref(conf);
	close(target);
	remove_dir();
	cr_assert_eq(stats_get(STAT_REQUESTS), 0);
	cr_assert_eq(stats_get(STAT_TUNNELS), 0);
	cr_assert_eq(stats_get(STAT_EXCHANGES), 0);
	cr_assert_eq(stats_get(STAT_IDLE_TARGETS), 0);
}

void site_setup(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_LEVEL_ERR);
}

/* --- a client --- */

struct client client;
struct mem_stream *m;
struct h1 *h;
unsigned logins;

static void on_login(void *ctx)
{
	(void)ctx;
	logins++;
}

bool connect_client(void)
{
	client = (struct client){ .close_after_refusal = true, .authenticated = on_login };
	logins = 0;
	cr_assert(addr_parse(&client.address, slice_of("192.0.2.7:40000")));
	audit_id(client.id);
	m = mem_stream_new(loop);
	h = h1_start(loop, &m->base, &client, conf, &tunnel_handler, &env);
	return h != NULL;
}

void drop_client(void)
{
	if (h)
		h1_abort(h, REASON_SHUTDOWN);
	else
		stream_close(&m->base, STREAM_CLOSE_ABORT);
	mem_drain(m, SIZE_MAX);
	UNTIL(loop, m->gone);
	loop_turn(loop);
	h1_free(h);
	h = NULL;
	mem_stream_free(m);
	m = NULL;
}

void say_connect(const char *to, const char *credentials)
{
	char head[512];

	snprintf(head, sizeof(head), "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s%s%s\r\n", to, to,
	    credentials ? "Proxy-Authorization: Basic " : "", credentials ? credentials : "", credentials ? "\r\n" : "");
	mem_feed_text(m, head);
	loop_turn(loop);
}

const char *target_at(const char *host)
{
	static char text[300];

	snprintf(text, sizeof(text), "%s:%u", host, target_port);
	return text;
}

bool has(const char *text)
{
	return memmem(m->out, m->out_n, text, strlen(text)) != NULL;
}

void expect_refusal(enum reason reason)
{
	const struct reason_row *row = reason_row(reason);
	char expected[160];

	UNTIL(loop, m->out_n > 0 || m->closed);
	snprintf(expected, sizeof(expected), "HTTP/1.1 %d ", row->status);
	cr_expect(has(expected), "%s: %s", row->name, m->out);
	if (row->token)
		snprintf(expected, sizeof(expected), "Proxy-Status: adit; error=%s; details=\"%s\"\r\n", row->token, row->name);
	cr_expect(has(expected), "%s: %s", row->name, m->out);
	cr_expect_eq(has("Proxy-Authenticate: Basic realm=\"adit\""), row->status == 407);
}

/* --- the records --- */

char records[65536];

void read_records(const char *name)
{
	char path[128];
	FILE *f;
	size_t n = strlen(records);

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	if (!f)
		return;
	n += fread(records + n, 1, sizeof(records) - 1 - n, f);
	records[n] = '\0';
	fclose(f);
}

unsigned count(const char *text)
{
	unsigned n = 0;

	for (const char *p = records; (p = strstr(p, text)) != NULL; p++)
		n++;
	return n;
}

/* Stops the audit and takes everything that was recorded. */
void take_records(void)
{
	stop_audit();
	records[0] = '\0';
	read_records("access.jsonl");
	read_records("strangers.jsonl");
}

void expect_last(const char *kind, enum reason reason)
{
	char text[64];

	take_records();
	snprintf(text, sizeof(text), "\"kind\":\"%s\"", kind);
	cr_expect_eq(count(text), 1u, "%s: %s", reason_name(reason), records);
	cr_expect_eq(count("\"kind\":\"deny\"") + count("\"kind\":\"close\""), 1u, "%s: %s", reason_name(reason), records);
	snprintf(text, sizeof(text), "\"reason\":\"%s\"", reason_name(reason));
	cr_expect_eq(count(text), 1u, "%s: %s", reason_name(reason), records);
	if (reason_row(reason)->status > 0) {
		snprintf(text, sizeof(text), "\"status\":%d", reason_row(reason)->status);
		cr_expect_geq(count(text), 1u, "%s: %s", reason_name(reason), records);
	}
	cr_expect_eq(count("c2VjcmV0"), 0u, "a password is on record");
}
