/* Snapshots: defaults, options, files, the round trip through print, lack of memory, reload. */
#include "unit/conf/load.h"

#include "adit/base/mem.h"
#include "component/failing.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

Test(conf, defaults)
{
	struct conf *conf = load_options(NULL, 0);
	char text[ADDR_TEXT_SIZE];

	cr_assert_null(conf->path);
	cr_assert_eq(conf->listen_count, 1);
	cr_assert_str_eq(addr_text(&conf->listen[0].address, text), "[::]:8443");
	cr_assert(conf->listen[0].close_after_refusal && conf->listen[0].http2);
	cr_assert(conf->tls.certificate_count == 0 && !conf->tls.min_version_13 && !conf->tls.ticket_secret);
	cr_assert_eq(conf->tls.ticket_lifetime_ms, 12 * 3600 * 1000);
	cr_assert_null(conf->auth.htpasswd);
	cr_assert_str_eq(conf->auth.realm, "adit");
	cr_assert(conf->auth.throttle && conf->auth.failures == 10 && conf->auth.window_ms == 600000);
	cr_assert(conf->auth.per_prefix.count == 100 && conf->auth.per_prefix.per_ms == 60000);
	cr_assert(conf->auth.cache_ms == 3600000 && conf->auth.wrong_cache_ms == 60000 && conf->auth.cache_entries == 10000);
	cr_assert(conf->auth.threads == 0 && conf->auth.queue == 512);
	cr_assert(conf->dns.cache_entries == 10000 && conf->dns.negative_ms == 5000 && conf->dns.ttl_max_ms == 3600000);
	cr_assert(conf->dns.queries == 1000 && conf->dns.server_count == 0);
	cr_assert(conf->dial.source_v4.len == 0 && conf->dial.source_v6.len == 0);
	cr_assert(conf->http.request_line_bytes == 8192 && conf->http.head_bytes == 32768 && conf->http.fields == 100);
	cr_assert(conf->http2.streams == 256 && conf->http2.header_list_bytes == 32768 && conf->http2.ping_ms == 30000);
	cr_assert(conf->http2.window_bytes == 24 << 20 && conf->http2.stream_window_bytes == 4 << 20);
	cr_assert(conf->forward.idle_connections == 256 && conf->forward.idle_ms == 30000);
	cr_assert_eq(conf->tunnel.buffer_bytes, 262144);
	cr_assert(conf->policy.rule_count == 1 && conf->policy.rules[0].port_count == 0);
	cr_assert_str_eq(conf->audit.directory, "/var/log/adit");
	cr_assert(conf->audit.node && conf->audit.node[0]);
	cr_assert(conf->audit.progress_ms == 300000 && !conf->audit.on_failure_allow);
	cr_assert(conf->audit.stranger_bytes == 100000000 && conf->audit.open_files == 256 && conf->audit.queue == 65536);
	cr_assert(conf->limits.connections == 20000 && conf->limits.unauthenticated == 8000);
	cr_assert_eq(conf->limits.unauthenticated_per_prefix, 1000);
	cr_assert(conf->limits.handshakes_per_prefix.count == 500 && conf->limits.handshakes_per_prefix.per_ms == 1000);
	cr_assert(conf->deadlines.handshake == 10000 && conf->deadlines.head == 10000 && conf->deadlines.auth == 15000);
	cr_assert(conf->deadlines.resolve == 5000 && conf->deadlines.dial == 10000 && conf->deadlines.dial_address == 4000);
	cr_assert(conf->deadlines.audit == 2000 && conf->deadlines.linger == 2000 && conf->deadlines.idle == 3600000);
	cr_assert_eq(conf->deadlines.response, 300000);
	cr_assert(conf->deadlines.half_closed == 300000 && conf->deadlines.stall == 600000);
	cr_assert(conf->deadlines.lifetime == CONF_OFF && conf->deadlines.drain == 60000);
	cr_assert_eq(conf->deadlines.keepalive, 60000);
	cr_assert(conf->workers >= 1 && conf->workers <= 256 && !conf->user && conf->log_level == 5);
	conf_unref(conf);
}

/* Everything that can be off or auto, and all that has no default. */
static const char everything[] =
	"listen:\n  - { address: \"127.0.0.1:0\", close_after_refusal: off, http2: off }\n  - \"[::1]:9443\"\n"
	"tls:\n  certificates: [{ chain: a.crt, key: a.key }, { chain: \"with space\" }]\n  minimum_version: 1.3\n"
	"  ticket_secret: /secret\n  ticket_lifetime: 1d\n"
	"auth: { htpasswd: /u, realm: \"off\", throttle: off, cache: 1500ms, wrong_cache: 2s, cache_entries: 1, threads: 3, queue: 1 }\n"
	"policy: { rules: [{ name: a, action: deny, users: [x, \"y z\"], to: [any., \"*.b\", 10.0.0.0/8, ula], ports: [1, 5-6, any] }] }\n"
	"dns: { servers: [192.0.2.53, \"[::1]:54\"], negative: off, ttl_max: 1s, queries: 1, cache_entries: 2 }\n"
	"dial: { source_v4: 192.0.2.1, source_v6: \"2001:db8::1\" }\n"
	"http: { request_line: 256, head: 1025, fields: 1, pac: \"[::1]:8443\" }\n"
	"http2: { streams: 10000, header_list: 1025, window: 1GiB, stream_window: 65537, ping: off }\n"
	"forward: { idle_connections: off, idle: 10ms }\n"
	"tunnel: { buffer: 65537 }\n"
	"audit: { directory: d, node: n, progress: 1s, on_failure: allow, strangers_max: 4KiB, open_files: 1, queue: 16 }\n"
	"limits: { connections: off, unauthenticated: off, unauthenticated_per_prefix: off, handshakes_per_prefix: off }\n"
	"deadlines: { idle: off, half_closed: off, stall: off, drain: off, lifetime: 2d, response: 1s }\n"
	"log: { level: debug }\nworkers: 7\nuser: adit\n";

static void expect_round_trip(const struct conf *conf)
{
	char *first = load_printed(conf), *second;
	struct conf *again = load_good(first);

	second = load_printed(again);
	cr_assert_str_eq(first, second);
	free(first);
	free(second);
	conf_unref(again);
}

Test(conf, round_trip)
{
	struct conf *conf = load_good(everything);

	cr_assert(conf->limits.connections == 0 && conf->limits.handshakes_per_prefix.count == 0);
	cr_assert(conf->limits.handshakes_per_prefix.per_ms > 0);
	cr_assert(conf->deadlines.idle == CONF_OFF && conf->deadlines.drain == CONF_OFF && conf->dns.negative_ms == 0);
	cr_assert(!conf->listen[0].http2 && conf->listen[1].http2 && conf->http2.streams == 10000);
	cr_assert(conf->http2.ping_ms == CONF_OFF && conf->http2.window_bytes == 1 << 30);
	cr_assert(conf->http2.stream_window_bytes == 65537 && conf->http2.header_list_bytes == 1025);
	cr_assert(conf->forward.idle_connections == 0 && conf->forward.idle_ms == 10 && conf->deadlines.response == 1000);
	cr_assert(!conf->auth.throttle && conf->audit.on_failure_allow && conf->tls.min_version_13);
	cr_assert_str_eq(conf->tls.certificates[1].key, "with space");
	cr_assert(addr_port(&conf->dns.servers[0]) == 53 && addr_port(&conf->dns.servers[1]) == 54);
	cr_assert(conf->log_level == 7 && conf->workers == 7);
	expect_round_trip(conf);
	conf_unref(conf);
	conf = load_options(NULL, 0);
	expect_round_trip(conf);
	conf_unref(conf);
	conf = load_good("policy: { rules: [] }\n");
	expect_round_trip(conf);
	conf_unref(conf);
}

/* The sample says "default" by being commented out: with and without the '#' it is the same. */
Test(conf, sample_shows_the_defaults)
{
	static const struct conf_option given[] = {
		{ "tls.certificates.chain", "/etc/adit/proxy.crt" }, { "tls.certificates.key", "/etc/adit/proxy.key" },
		{ "auth.htpasswd", "/etc/adit/users.htpasswd" },
	};
	static const char *const examples[] = { "ticket_secret:", "source_v4:", "source_v6:", "node:", "user:" };
	char *sample = load_file("dist/adit.yaml"), *bare = strdup(sample), *expected, *printed;
	struct conf *standard = load_options(given, COUNT(given)), *conf = load_good(sample);
	unsigned shown = 0;

	expected = load_printed(standard);
	printed = load_printed(conf);
	cr_assert_str_eq(printed, expected);
	free(printed);
	conf_unref(conf);
	for (char *line = bare; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		char *hash = line + strspn(line, " ");
		size_t name = strnlen(hash, 2) < 2 ? 0 : strspn(hash + 2, "abcdefghijklmnopqrstuvwxyz_0123456789");
		bool example = false;

		if (strncmp(hash, "# ", 2) != 0 || name == 0 || hash[2 + name] != ':' || !strchr(" \n", hash[3 + name]))
			continue;
		for (size_t i = 0; i < COUNT(examples); i++)
			example = example || strncmp(hash + 2, examples[i], strlen(examples[i])) == 0;
		if (example)
			continue;
		memmove(hash, hash + 2, strlen(hash + 2) + 1);
		shown++;
	}
	cr_assert_gt(shown, 40, "%s", bare);
	conf = load_good(bare);
	printed = load_printed(conf);
	cr_assert_str_eq(printed, expected, "%s", bare);
	free(printed);
	free(expected);
	free(sample);
	free(bare);
	conf_unref(conf);
	conf_unref(standard);
}

/* --- options --- */

Test(conf, options_override_the_file)
{
	static const struct conf_option options[] = {
		{ "listen", "127.0.0.1:1" }, { "listen", "127.0.0.1:2" }, { "tls.certificates.key", "k1" },
		{ "tls.certificates.chain", "c1" }, { "tls.certificates[].chain", "c2" }, { "auth.realm", "r" },
		{ "auth.throttle.failures", "3" }, { "dns.servers", "::1" }, { "workers", "2" }, { "workers", "3" },
		{ "policy.rules", "[{ action: deny, to: any }, { action: allow, to: [ula] }]" },
	};
	struct conf_errors errors = { .text = NULL };
	struct conf *conf = conf_parse_text("t.yaml", slice_of(everything), options, COUNT(options), &errors);

	cr_assert_not_null(conf);
	cr_assert_str_eq(conf->path, "t.yaml");
	cr_assert(conf->listen_count == 2 && addr_port(&conf->listen[1].address) == 2);
	cr_assert(conf->listen[0].close_after_refusal && conf->listen[0].where.line == 0);
	cr_assert_eq(conf->tls.certificate_count, 2);
	cr_assert_str_eq(conf->tls.certificates[0].chain, "c1");
	cr_assert_str_eq(conf->tls.certificates[0].key, "k1");
	cr_assert_str_eq(conf->tls.certificates[1].chain, "c2");
	cr_assert_str_eq(conf->tls.certificates[1].key, "c2");
	cr_assert_str_eq(conf->auth.realm, "r");
	cr_assert(conf->auth.failures == 3 && conf->dns.server_count == 1 && conf->workers == 3);
	cr_assert(conf->policy.rule_count == 2 && !conf->policy.rules[0].allow);
	cr_assert_str_eq(conf->policy.rules[1].name, "rule-2");
	expect_round_trip(conf);
	conf_unref(conf);
}

Test(conf, bad_options)
{
	static const struct {
		struct conf_option option;
		const char *messages;
	} rows[] = {
		{ { "workers", "x" }, "--workers: \"x\" is not acceptable; write a number from 1 to 256, or auto\n" },
		{ { "workers", "" }, "--workers: has no value; write a number from 1 to 256, or auto\n" },
		{ { "listen", "8443" }, "--listen: \"8443\" is not acceptable; write an address and a port, as \"[::]:8443\" or "
			"192.0.2.1:8443\n" },
		{ { "listen[].address", "x" }, "--set listen[].address: \"x\" is not acceptable; write an address and a port, as "
			"\"[::]:8443\" or 192.0.2.1:8443\n" },
		{ { "tls.certificates.key", "k" }, "tls.certificates[1]: chain is missing; give it with --cert\n" },
		{ { "auth.cache", "1" }, "--set auth.cache: \"1\" is not acceptable; write a number with ms, s, m, h or d, from "
			"10ms to 7d\n" },
		{ { "auth.htpaswd", "x" }, "--set auth.htpaswd: unknown key; did you mean auth.htpasswd?\n" },
		{ { "realm", "x" }, "--set realm: unknown key; did you mean auth.realm?\n" },
		{ { "wrkers", "x" }, "--set wrkers: unknown key; did you mean workers?\n" },
		{ { "zzz.zzz", "x" }, "--set zzz.zzz: unknown key; adit.yaml(5) lists all keys\n" },
		{ { "", "x" }, "--set : unknown key; adit.yaml(5) lists all keys\n" },
		{ { "auth", "x" }, "--set auth: is a section; set one of its keys\n" },
		{ { "policy.rules.name", "x" }, "--set policy.rules.name: can be set in a configuration file only\n" },
		{ { "listen.close_after_refusal", "on" },
			"--set listen.close_after_refusal: can be set in a configuration file only\n" },
		{ { "listen.http2", "off" }, "--set listen.http2: can be set in a configuration file only\n" },
		{ { "dns.servers", "x" }, "--set dns.servers: \"x\" is no name server; write its address, as 192.0.2.53 or "
			"\"[2001:db8::53]:5353\"\n" },
		{ { "policy.rules", "" }, "--set policy.rules:1:1: policy.rules: has no value; write a list\n" },
		{ { "policy.rules", "[{ action: deny }]" }, "--set policy.rules:1:2: policy.rules[1]: to is missing\n" },
		{ { "policy.rules", "[" }, "--set policy.rules:2:1: policy.rules: not YAML: while parsing a flow node: did not find "
			"expected node content\n" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		char *messages = load_bad_options(&rows[i].option, 1);

		cr_expect_str_eq(messages, rows[i].messages, "expected: %s     got: %s", rows[i].messages, messages);
		free(messages);
	}
}

/* Faults of the file and of options are told together. */
Test(conf, all_faults_at_once)
{
	static const struct conf_option options[] = { { "workers", "x" }, { "no.such", "y" }, { "policy.rules", "[1]" } };
	struct conf_errors errors = { .text = NULL };

	cr_assert_null(conf_parse_text("t.yaml", slice_of("user: 0\nlisten: []\n"), options, COUNT(options), &errors));
	cr_assert_eq(errors.count, 5);
	conf_errors_free(&errors);
}

Test(conf, option_names)
{
	const char *argument, *near;

	cr_assert_str_eq(conf_option_key("--listen", &argument, &near), "listen");
	cr_assert_str_eq(argument, "ADDRESS");
	cr_assert_not_null(conf_option_key("--cert", &argument, &near));
	cr_assert_null(conf_option_key("--lisen", &argument, &near));
	cr_assert_str_eq(near, "--listen");
	cr_assert_null(conf_option_key("--quux-frobnicate", &argument, &near));
	cr_assert_null(near);
}

/* --- what the system says --- */

/* Instead of the C library's, for an executable's own functions come first. NULL: there is no saying. */
static const char *host_name = "proxy";

int gethostname(char *name, size_t n)
{
	if (!host_name) {
		errno = EPERM;
		return -1;
	}
	snprintf(name, n, "%s", host_name);
	return 0;
}

Test(conf, the_node_is_the_host)
{
	static const struct {
		const char *host, *node;
	} rows[] = {
		{ "proxy", "proxy" }, { "Proxy-2.example_ORG", "Proxy-2.example_ORG" }, { "a b/c\"d\\e:f{g[h\x7f", "a-b-c-d-e-f-g-h-" },
		{ "\xc3\xa4", "--" }, { "", "localhost" }, { NULL, "localhost" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct conf *conf;

		host_name = rows[i].host;
		conf = load_options(NULL, 0);
		cr_expect_str_eq(conf->audit.node, rows[i].node);
		conf_unref(conf);
	}
}

Test(conf, workers_auto)
{
	static const struct {
		int error;
		unsigned workers;
	} rows[] = {
		{ EINVAL, 256 }, { EPERM, 1 } /* more cores than the call can tell of; the call is forbidden */
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct conf *conf;

		failing_set("sched_getaffinity", 1, rows[i].error);
		conf = load_good("workers: auto\n");
		cr_expect(failing_hit());
		failing_set(NULL, 0, 0);
		cr_expect_eq(conf->workers, rows[i].workers);
		conf_unref(conf);
	}
}

/* One port on several addresses is fine, unless one of them takes the other's connections. */
Test(conf, one_port_on_several_addresses)
{
	static const char *const fine[] = {
		"listen: [\"127.0.0.1:81\", \"127.0.0.2:81\"]\n", "listen: [\"0.0.0.0:81\", \"127.0.0.1:82\", \"[::1]:81\"]\n",
		"listen: [\"127.0.0.1:0\", \"127.0.0.1:0\"]\n",
	};
	static const struct conf_option twice[] = { { "listen", "127.0.0.1:81" }, { "listen", "127.0.0.1:81" } };
	char *messages;

	for (size_t i = 0; i < COUNT(fine); i++)
		conf_unref(load_good(fine[i]));
	messages = load_bad_options(twice, 2);
	cr_expect_str_eq(messages, "listen[2]: 127.0.0.1:81 is listened on already by entry 1; leave one of them out\n");
	free(messages);
}

/* --- files --- */

Test(conf, unreadable_files)
{
	struct conf_errors errors = { .text = NULL };
	char path[] = "/tmp/adit-conf-XXXXXX";
	int fd;

	cr_assert_null(conf_load("/no/such/adit.yaml", NULL, 0, &errors));
	cr_assert_str_eq(errors.text[0], "/no/such/adit.yaml: cannot be read: No such file or directory");
	conf_errors_free(&errors);
	cr_assert_null(conf_load("/", NULL, 0, &errors));
	cr_assert_str_eq(errors.text[0], "/: cannot be read: Is a directory");
	conf_errors_free(&errors);
	cr_assert_geq(fd = mkstemp(path), 0);
	cr_assert_eq(ftruncate(fd, CONF_FILE_MAX_BYTES + 1), 0);
	cr_assert_null(conf_load(path, NULL, 0, &errors));
	cr_assert_eq(errors.count, 1);
	cr_assert_not_null(strstr(errors.text[0], ": is larger than 1048576 bytes, the most that is read"));
	conf_errors_free(&errors);
	cr_assert_eq(ftruncate(fd, 0), 0);
	cr_assert_eq(write(fd, "workers: 4\n", 11), 11);
	failing_set("read", 1, EINTR);
	struct conf *conf = conf_load(path, NULL, 0, &errors);
	cr_assert(failing_hit());
	failing_set(NULL, 0, 0);
	cr_assert_not_null(conf);
	cr_assert_str_eq(conf->path, path);
	cr_assert_eq(conf->workers, 4);
	conf_unref(conf);
	close(fd);
	unlink(path);
}

Test(conf, references)
{
	struct conf *conf = load_options(NULL, 0);

	cr_assert_eq(conf_ref(conf), conf);
	conf_unref(conf);
	cr_assert_str_eq(conf->auth.realm, "adit");
	conf_unref(conf);
	conf_unref(NULL);
}

/* Whichever allocation fails: no leak, no crash, and a reason (of which there may be no memory to keep more than a count). */
static void without_memory(const char *text, const struct conf_option *options, size_t count, bool forever)
{
	for (unsigned long n = 1;; n++) {
		struct conf_errors errors = { .text = NULL };
		struct conf *conf;
		bool hit;

		mem_fault_set(n, forever);
		conf = conf_parse_text("t.yaml", slice_of(text), options, count, &errors);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert_eq(conf == NULL, hit, "allocation %lu", n);
		cr_assert_eq(conf == NULL, conf_failed(&errors), "allocation %lu", n);
		conf_unref(conf);
		conf_errors_free(&errors);
		if (!hit)
			return;
		cr_assert_lt(n, 10000ul);
	}
}

Test(conf, lack_of_memory)
{
	static const struct conf_option options[] = {
		{ "listen", "127.0.0.1:1" }, { "listen", "127.0.0.1:2" }, { "tls.certificates.chain", "c" },
		{ "dns.servers", "::1" }, { "policy.rules", "[{ action: deny, to: [any, a.b, \"*.b\"], users: [x] }]" },
	};
	char *sample = load_file("dist/adit.yaml");

	for (int forever = 0; forever < 2; forever++) {
		without_memory(sample, NULL, 0, forever);
		without_memory(everything, NULL, 0, forever);
		without_memory(everything, options, COUNT(options), forever);
	}
	free(sample);
}

Test(conf, lack_of_memory_for_messages)
{
	static const char text[] = "workers: 0\nuser: 0\nlisten: []\n";
	struct conf_errors errors = { .text = NULL };

	for (unsigned long n = 1; n < 100; n++) {
		mem_fault_set(n, true);
		cr_assert_null(conf_parse_text("t.yaml", slice_of(text), NULL, 0, &errors));
		mem_fault_set(0, false);
		cr_assert(conf_failed(&errors));
		conf_errors_free(&errors);
	}
}

/* --- reload --- */

Test(conf, what_is_missing)
{
	static const struct conf_option good[] = { { "tls.certificates.chain", "c" }, { "auth.htpasswd", "u" } };
	struct conf_errors errors = { .text = NULL };
	struct conf *conf = load_options(NULL, 0);
	FILE *nowhere = fopen("/dev/null", "w");

	cr_assert_not(conf_complete(conf, &errors));
	cr_assert_eq(errors.count, 2);
	conf_errors_free(&errors);
	conf_unref(conf);
	conf = load_good("workers: 1\n");
	mem_fault_set(1, true);
	cr_assert_not(conf_complete(conf, &errors));
	mem_fault_set(0, false);
	cr_assert(errors.count == 0 && errors.left_out == 2);
	conf_errors_print(&errors, nowhere);
	fclose(nowhere);
	conf_errors_free(&errors);
	conf_unref(conf);
	conf = load_options(good, COUNT(good));
	cr_assert(conf_complete(conf, &errors));
	cr_assert_eq(errors.count, 0);
	conf_unref(conf);
}

Test(conf, reload_notes)
{
	static const struct {
		const char *before, *after, *note; /* NULL: nothing to say */
	} rows[] = {
		{ "workers: 2\n", "workers: 2\n", NULL },
		{ "workers: 2\n", "workers: 3\n", "workers: stays 2 until a restart (the configuration says 3)" },
		{ "workers: 2\n", "workers: 2\nuser: a\n", "user: stays unset until a restart (the configuration says a)" },
		{ "workers: 2\nuser: a\n", "workers: 2\n", "user: stays a until a restart (the configuration says nothing)" },
		{ "listen: \"[::]:1\"\n", "listen: [{ address: \"[::]:1\", close_after_refusal: off, http2: off }, \"[::]:2\"]\n", NULL },
		{ "tunnel: { buffer: 64KiB }\n", "tunnel: { buffer: 1MiB }\n", NULL },
		{ "auth: { threads: 1 }\n", "auth: { threads: 2 }\n",
			"auth.threads: stays 1 until a restart (the configuration says 2)" },
		{ "workers: 2\n", "workers: 2\nauth: { realm: b, cache: 5s }\nlimits: { connections: 5 }\n", NULL },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct conf *before = load_good(rows[i].before), *after = load_good(rows[i].after);
		struct conf_errors notes = { .text = NULL };

		cr_assert_eq(conf_reloadable(before, after, &notes), rows[i].note == NULL, "row %zu", i);
		cr_assert_eq(notes.count, rows[i].note ? 1 : 0);
		if (rows[i].note)
			cr_assert_str_eq(notes.text[0], rows[i].note);
		conf_errors_free(&notes);
		conf_unref(before);
		conf_unref(after);
	}
}
