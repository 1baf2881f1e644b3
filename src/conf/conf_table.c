/* The one table of options: what can be written, what it means, what holds when it is not written. The parser, the
 * printer, the manual page and the command line all walk these rows, so none of them can know an option that the
 * others do not.
 *
 * Texts in `doc` are roff-free sentences; conf_print.c escapes them. */
#include "conf/conf_priv.h"

#include <limits.h>

#define MS 1ull
#define SECOND (1000 * MS)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define KIB 1024ull
#define MIB (1024 * KIB)
#define TIB (MIB * 1024 * 1024)

#define MEMBER(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)
#define AT(member) MEMBER(struct conf, member)
#define LIST(type, array, number) MEMBER(type, array), .count = offsetof(type, number)
#define SECTION(path, text) { .key = path, .type = CONF_SECTION, .doc = text }
#define DEADLINE(name, value, flag, text)                                                                  \
	{ .key = "deadlines." #name, .type = CONF_DURATION, AT(deadlines.name), .flags = (flag), .standard = value, \
		.least = 10 * MS, .most = 30 * DAY, .doc = text }

static const struct conf_row rows[] = {
	{ .key = "listen", .type = CONF_LIST, LIST(struct conf, listen, listen_count), .items = &conf_rules_listen,
		.flags = CONF_FILLED, .standard = "[{ address: \"[::]:8443\" }]", .most = 64, .option = "--listen",
		.argument = "ADDRESS", .brief = "listen here; can be given several times [[::]:8443]",
		.doc = "The addresses to listen on. An entry is a map, or just the address." },
	{ .key = "listen[].address", .type = CONF_ADDRESS, MEMBER(struct conf_listen, address),
		.flags = CONF_REQUIRED,
		.doc = "Address and port, as \"[::]:8443\" or 192.0.2.1:8443. [::] takes IPv4 as well. Port 0 lets "
			"the system choose a port; the line that says \"ready\" tells which." },
	{ .key = "listen[].close_after_refusal", .type = CONF_BOOL, MEMBER(struct conf_listen, close_after_refusal),
		.standard = "on",
		.doc = "Whether an HTTP/1.1 connection is closed after a refused CONNECT, 407 included (RFC 9931): "
			"the bytes of a client that did not wait for the answer are then never taken for a request." },
	{ .key = "listen[].http2", .type = CONF_BOOL, MEMBER(struct conf_listen, http2), .standard = "on",
		.doc = "Whether HTTP/2 is offered (ALPN h2, beside http/1.1). A client that offers both gets HTTP/2." },

	SECTION("tls", "TLS towards the clients."),
	{ .key = "tls.certificates", .type = CONF_LIST, LIST(struct conf, tls.certificates, tls.certificate_count),
		.items = &conf_rules_certificates, .most = 256,
		.doc = "Certificates, chosen by the name the client asks for (SNI); the first is for all other "
			"names." },
	{ .key = "tls.certificates[].chain", .type = CONF_STRING, MEMBER(struct conf_certificate, chain),
		.string = CONF_STRING_PATH, .flags = CONF_REQUIRED, .option = "--cert",
		.argument = "FILE", .brief = "PEM certificate chain; several: each with its --key",
		.doc = "PEM file with the certificate, followed by the intermediate ones." },
	{ .key = "tls.certificates[].key", .type = CONF_STRING, MEMBER(struct conf_certificate, key),
		.string = CONF_STRING_PATH, .option = "--key",
		.argument = "FILE", .brief = "PEM private key, if it is not in the file of the chain",
		.doc = "PEM file with its private key, without a passphrase. Default: the file of the chain." },
	{ .key = "tls.minimum_version", .type = CONF_CHOICE, AT(tls.min_version_13), .choices = "1.2|1.3",
		.standard = "1.2",
		.doc = "The lowest version of TLS that is spoken." },
	{ .key = "tls.ticket_secret", .type = CONF_STRING, AT(tls.ticket_secret), .string = CONF_STRING_PATH,
		.doc = "File with a secret from which the keys of session tickets are derived, so that several "
			"nodes can resume each other's sessions. Without it the keys are random, born at start." },
	{ .key = "tls.ticket_lifetime", .type = CONF_DURATION, AT(tls.ticket_lifetime_ms), .standard = "12h",
		.least = MINUTE, .most = 7 * DAY, .doc = "How long a session ticket can be used." },

	SECTION("auth", "Who may use the proxy."),
	{ .key = "auth.htpasswd", .type = CONF_STRING, AT(auth.htpasswd), .string = CONF_STRING_PATH,
		.option = "--htpasswd",
		.argument = "FILE", .brief = "users and password hashes",
		.doc = "File of users and password hashes, as made by adit passwd or Apache's htpasswd: yescrypt, "
			"bcrypt, SHA-512 and SHA-256 crypt, MD5 ($1$, $apr1$) and {SHA}. It is watched, and read "
			"again when it changes." },
	{ .key = "auth.realm", .type = CONF_STRING, AT(auth.realm), .string = CONF_STRING_REALM, .standard = "adit",
		.option = "--realm",
		.argument = "TEXT", .brief = "realm of the challenge",
		.doc = "The realm of the challenge. Browsers keep passwords under it: do not change it without need." },
	{ .key = "auth.throttle", .type = CONF_SWITCH, AT(auth.throttle), .standard = "on",
		.doc = "Limits on wrong passwords: a map of the keys below, or off." },
	{ .key = "auth.throttle.failures", .type = CONF_COUNT, AT(auth.failures), .standard = "10", .least = 1,
		.most = 1000000,
		.doc = "So many different wrong passwords for one user from one network within the window are "
			"checked; then the answer is 429 at once." },
	{ .key = "auth.throttle.window", .type = CONF_DURATION, AT(auth.window_ms), .standard = "10m", .least = SECOND,
		.most = DAY, .doc = "The time over which wrong passwords are counted." },
	{ .key = "auth.throttle.per_prefix", .type = CONF_RATE, AT(auth.per_prefix), .standard = "100/min",
		.flags = CONF_MAY_OFF, .least = 1, .most = 1000000,
		.doc = "Wrong passwords from one network, over all users (IPv4: the address, IPv6: its /64)." },
	{ .key = "auth.cache", .type = CONF_DURATION, AT(auth.cache_ms), .standard = "1h", .least = 10 * MS,
		.most = 7 * DAY,
		.doc = "How long a right password is known without being hashed again. The password itself is not "
			"kept." },
	{ .key = "auth.wrong_cache", .type = CONF_DURATION, AT(auth.wrong_cache_ms), .standard = "1m", .least = 10 * MS,
		.most = DAY, .doc = "The same for a wrong one." },
	{ .key = "auth.cache_entries", .type = CONF_COUNT, AT(auth.cache_entries), .standard = "10000", .least = 1,
		.most = 10000000, .doc = "How many of them are known." },
	{ .key = "auth.threads", .type = CONF_COUNT, AT(auth.threads), .standard = "auto",
		.flags = CONF_MAY_AUTO | CONF_RESTART, .least = 1, .most = 256,
		.doc = "Threads that hash passwords; auto depends on the machine's cores." },
	{ .key = "auth.queue", .type = CONF_COUNT, AT(auth.queue), .standard = "512", .least = 1, .most = 1000000,
		.doc = "Passwords that may wait to be hashed; beyond it the network with the most of them gets 503." },

	SECTION("policy", "Who may reach what."),
	{ .key = "policy.rules", .type = CONF_LIST, LIST(struct conf, policy.rules, policy.rule_count),
		.items = &conf_rules_rules, .standard = "[{ name: web, action: allow, to: [any] }]", .most = 4096,
		.doc = "Rules in order; the first that matches decides, and what none matches is denied. Without "
			"this key the one rule shown as the default holds: every user reaches every public address, by "
			"CONNECT on port 443 and by forwarded http:// requests on ports 80 and 443. The empty list [] "
			"denies everything." },
	{ .key = "policy.rules[].name", .type = CONF_STRING, MEMBER(struct conf_rule, name), .string = CONF_STRING_RULE,
		.doc = "The name that stands in records and refusals. Default: rule-N, by its place." },
	{ .key = "policy.rules[].action", .type = CONF_CHOICE, MEMBER(struct conf_rule, allow), .choices = "deny|allow",
		.flags = CONF_REQUIRED, .doc = "What a match means." },
	{ .key = "policy.rules[].users", .type = CONF_LIST, LIST(struct conf_rule, users, user_count),
		.items = &conf_rules_users, .flags = CONF_FILLED, .most = 65536,
		.doc = "The users it is for, by name. Without it: every user." },
	{ .key = "policy.rules[].to", .type = CONF_LIST, LIST(struct conf_rule, to, to_count), .items = &conf_rules_to,
		.flags = CONF_FILLED | CONF_REQUIRED, .most = 65536,
		.doc = "The destinations. Names of sets: any (every public address), private (everything of special "
			"use), loopback, link-local, rfc1918, ula, cgnat, metadata. Addresses and blocks: 192.0.2.7, "
			"10.20.0.0/16. Exact names: www.example.org; a name without a dot is written with a final "
			"one when it looks like a set. Names below one: *.example.org. Addresses of special use are "
			"denied unless a rule names their set or a block; an exact name admits private networks "
			"(rfc1918, ula, cgnat) only, and *.x none of them." },
	{ .key = "policy.rules[].ports", .type = CONF_LIST, LIST(struct conf_rule, ports, port_count),
		.items = &conf_rules_ports, .flags = CONF_FILLED, .most = 1024,
		.doc = "Ports: 443, 8000-8100, or any. Without it: 443 for CONNECT, 80 and 443 for forwarded http:// "
			"requests." },

	SECTION("dns", "Resolving names."),
	{ .key = "dns.servers", .type = CONF_LIST, LIST(struct conf, dns.servers, dns.server_count),
		.items = &conf_rules_servers, .most = 16,
		.doc = "Name servers, as 192.0.2.53, 2001:db8::53 or \"[2001:db8::53]:5353\". Without it, or empty: "
			"those of /etc/resolv.conf." },
	{ .key = "dns.cache_entries", .type = CONF_COUNT, AT(dns.cache_entries), .standard = "10000", .least = 1,
		.most = 10000000, .doc = "Names that each worker remembers." },
	{ .key = "dns.negative", .type = CONF_DURATION, AT(dns.negative_ms), .standard = "5s", .least = MS, .most = HOUR,
		.flags = CONF_MAY_OFF | CONF_OFF_ZERO, .doc = "How long it is remembered that a name does not exist." },
	{ .key = "dns.ttl_max", .type = CONF_DURATION, AT(dns.ttl_max_ms), .standard = "1h", .least = SECOND,
		.most = 7 * DAY,
		.doc = "The longest time an answer is remembered, whatever its TTL." },
	{ .key = "dns.queries", .type = CONF_COUNT, AT(dns.queries), .standard = "1000", .least = 1, .most = 65536,
		.doc = "Different names that each worker resolves at one time; beyond it: 503." },

	SECTION("dial", "Connections to destinations."),
	{ .key = "dial.source_v4", .type = CONF_HOST, AT(dial.source_v4), .least = AF_INET,
		.doc = "The local IPv4 address of outgoing connections. Without it the system chooses." },
	{ .key = "dial.source_v6", .type = CONF_HOST, AT(dial.source_v6), .least = AF_INET6, .doc = "The same for IPv6." },

	SECTION("http", "Requests: limits of their heads, and what the proxy answers itself."),
	{ .key = "http.request_line", .type = CONF_SIZE, AT(http.request_line_bytes), .standard = "8KiB", .least = 256,
		.most = 64 * KIB, .doc = "The longest request line; beyond it: 414." },
	{ .key = "http.head", .type = CONF_SIZE, AT(http.head_bytes), .standard = "32KiB", .least = KIB, .most = MIB,
		.doc = "The largest head, request line included; beyond it: 431." },
	{ .key = "http.fields", .type = CONF_COUNT, AT(http.fields), .standard = "100", .least = 1, .most = 1000,
		.doc = "The most fields of a head; beyond it: 431." },
	{ .key = "http.pac", .type = CONF_STRING, AT(http.pac), .string = CONF_STRING_AUTHORITY, .standard = "off",
		.flags = CONF_MAY_OFF,
		.doc = "The name (or address) and port by which browsers reach this proxy. With it, GET /proxy.pac is "
			"answered, without a login, with a proxy auto-configuration file that sends everything through "
			"https://HOST:PORT, so that a browser needs one URL: https://HOST:PORT/proxy.pac. The name "
			"must be in the certificate." },

	SECTION("http2", "HTTP/2: what one connection may have. http.request_line and http.fields hold for its requests."),
	{ .key = "http2.streams", .type = CONF_COUNT, AT(http2.streams), .standard = "256", .least = 1, .most = 10000,
		.doc = "Concurrent streams of a connection: tunnels and requests; no more than http2.window has 64KiB "
			"for. A client that opens more before it knows has the stream refused, and may try again; one "
			"that knows breaks the protocol, and its connection ends." },
	{ .key = "http2.header_list", .type = CONF_SIZE, AT(http2.header_list_bytes), .standard = "32KiB",
		.least = KIB, .most = 128 * KIB,
		.doc = "The largest header list of a request, in place of http.head; beyond it: 431." },
	{ .key = "http2.window", .type = CONF_SIZE, AT(http2.window_bytes), .standard = "24MiB", .least = MIB,
		.most = 1024 * MIB,
		.doc = "The sum of the stream windows that one connection may be told of: what its client can send at "
			"most while no target takes anything." },
	{ .key = "http2.stream_window", .type = CONF_SIZE, AT(http2.stream_window_bytes), .standard = "4MiB",
		.least = 64 * KIB, .most = 64 * MIB,
		.doc = "The most one stream's window grows to, as far as http2.window has room. It begins at 64KiB, and "
			"grows while the stream needs it." },
	{ .key = "http2.ping", .type = CONF_DURATION, AT(http2.ping_ms), .standard = "30s", .flags = CONF_MAY_OFF,
		.least = 10 * MS, .most = DAY,
		.doc = "When nothing came for so long from a client with tunnels, it is sent a PING; without an answer "
			"within another such time the connection is closed." },

	SECTION("forward", "Requests for http:// URLs, forwarded to their targets."),
	{ .key = "forward.idle_connections", .type = CONF_COUNT, AT(forward.idle_connections), .standard = "256",
		.flags = CONF_MAY_OFF, .least = 1, .most = 65536,
		.doc = "Idle connections to targets that each worker keeps for the next request of the same user to the "
			"same target; off: none." },
	{ .key = "forward.idle", .type = CONF_DURATION, AT(forward.idle_ms), .standard = "30s", .least = 10 * MS,
		.most = HOUR, .doc = "How long such a connection is kept." },

	SECTION("tunnel", "Tunnels."),
	{ .key = "tunnel.buffer", .type = CONF_SIZE, AT(tunnel.buffer_bytes), .standard = "256KiB",
		.least = 64 * KIB, .most = CONF_TUNNEL_BUFFER_MOST,
		.doc = "Bytes that may wait for a slow side, in each direction of each tunnel." },

	SECTION("audit", "The record of every access."),
	{ .key = "audit.directory", .type = CONF_STRING, AT(audit.directory), .string = CONF_STRING_PATH,
		.standard = "/var/log/adit", .option = "--audit-dir",
		.argument = "DIR", .brief = "directory of the records",
		.doc = "Where the records are written: access.jsonl for everything, users/NAME.jsonl for each user, "
			"strangers.jsonl for refusals before a login. It must exist and be writable." },
	{ .key = "audit.node", .type = CONF_STRING, AT(audit.node), .string = CONF_STRING_NODE,
		.doc = "The name of this proxy in records. Default: the host's name." },
	{ .key = "audit.progress", .type = CONF_DURATION, AT(audit.progress_ms), .standard = "5m", .least = 10 * MS,
		.most = DAY,
		.doc = "How often a living tunnel writes a progress record." },
	{ .key = "audit.on_failure", .type = CONF_CHOICE, AT(audit.on_failure_allow), .choices = "deny|allow",
		.standard = "deny",
		.doc = "What happens to accesses that cannot be put on record: refused, or let through and counted." },
	{ .key = "audit.strangers_max", .type = CONF_SIZE, AT(audit.stranger_bytes), .standard = "100MB", .least = 4 * KIB,
		.most = TIB, .doc = "The largest size of strangers.jsonl." },
	{ .key = "audit.open_files", .type = CONF_COUNT, AT(audit.open_files), .standard = "256", .least = 1, .most = 65536,
		.doc = "Files of users that are kept open." },
	{ .key = "audit.queue", .type = CONF_COUNT, AT(audit.queue), .standard = "65536", .least = 16, .most = 16777216,
		.doc = "Records that may wait to be written; beyond it accesses fail as audit.on_failure says." },

	SECTION("limits", "Limits at the door. Connections beyond them are closed before TLS, and counted."),
	{ .key = "limits.connections", .type = CONF_COUNT, AT(limits.connections), .standard = "20000",
		.flags = CONF_MAY_OFF, .least = 1, .most = 10000000, .doc = "Client connections in all." },
	{ .key = "limits.unauthenticated", .type = CONF_COUNT, AT(limits.unauthenticated), .standard = "8000",
		.flags = CONF_MAY_OFF, .least = 1, .most = 10000000, .doc = "Of these, connections without a login so far." },
	{ .key = "limits.unauthenticated_per_prefix", .type = CONF_COUNT, AT(limits.unauthenticated_per_prefix),
		.standard = "1000", .flags = CONF_MAY_OFF, .least = 1, .most = 10000000,
		.doc = "The same from one network. Offices sit behind one address: keep it generous." },
	{ .key = "limits.handshakes_per_prefix", .type = CONF_RATE, AT(limits.handshakes_per_prefix), .standard = "500/s",
		.flags = CONF_MAY_OFF, .least = 1, .most = 10000000, .doc = "TLS handshakes from one network." },

	SECTION("deadlines", "How long each phase may take, from its begin."),
	DEADLINE(handshake, "10s", 0, "The TLS handshake."),
	DEADLINE(head, "10s", 0, "The head of a request, from the end of the handshake or its first byte."),
	DEADLINE(auth, "15s", 0, "Checking the password, waiting in the queue included."),
	DEADLINE(resolve, "5s", 0, "Resolving the name."),
	DEADLINE(dial, "10s", 0, "Connecting to the destination, over all its addresses."),
	DEADLINE(dial_address, "4s", 0, "Connecting to one address."),
	DEADLINE(audit, "2s", 0, "Putting the access on record before the answer."),
	DEADLINE(linger, "2s", 0, "A client that is silent, or takes nothing, after a refusal or an early answer."),
	DEADLINE(response, "5m", 0, "A forwarded request without any byte, before the head of its answer; beyond it: 504."),
	DEADLINE(idle, "1h", CONF_MAY_OFF,
		"A tunnel, or a forwarded request after its answer has begun, without any byte."),
	DEADLINE(half_closed, "5m", CONF_MAY_OFF, "A tunnel without any byte after one side has closed."),
	DEADLINE(stall, "10m", CONF_MAY_OFF,
		"A tunnel or a forwarded request of which one side takes nothing although bytes wait for it."),
	DEADLINE(lifetime, "off", CONF_MAY_OFF, "The age of a tunnel or a forwarded request."),
	DEADLINE(drain, "60s", CONF_MAY_OFF, "Tunnels still open after the proxy was told to stop."),
	DEADLINE(keepalive, "60s", 0, "Waiting for the next request on a connection."),

	SECTION("log", "Diagnostics on stderr."),
	{ .key = "log.level", .type = CONF_CHOICE, AT(log_level), .choices = "err|warning|notice|info|debug", .least = 3,
		.standard = "notice", .doc = "The least important lines that are written." },

	{ .key = "workers", .type = CONF_COUNT, AT(workers), .standard = "auto", .flags = CONF_MAY_AUTO | CONF_RESTART,
		.least = 1, .most = 256, .option = "--workers",
		.argument = "N", .brief = "threads that serve connections",
		.doc = "Threads that serve connections; auto: one for each core this process may use." },
	{ .key = "user", .type = CONF_STRING, AT(user), .string = CONF_STRING_ACCOUNT, .flags = CONF_RESTART,
		.option = "--user",
		.argument = "NAME", .brief = "account to serve as, when started by root",
		.doc = "The account to serve as, when started by root: taken on after the ports are bound and "
			"before any key is read. Without it the account does not change." },
};

enum { ROW_COUNT = sizeof(rows) / sizeof(rows[0]) };
_Static_assert((int)ROW_COUNT <= (int)CONF_ROWS_MAX, "CONF_ROWS_MAX is too small for the table");

const struct conf_row *conf_table_row(size_t i)
{
	return i < ROW_COUNT ? &rows[i] : NULL;
}

size_t conf_table_index(const struct conf_row *row)
{
	return (size_t)(row - rows);
}

struct slice conf_table_parent(const struct conf_row *row)
{
	const char *dot = strrchr(row->key, '.');

	return (struct slice){ row->key, dot ? (size_t)(dot - row->key) : 0 };
}

const char *conf_table_name(const struct conf_row *row)
{
	const char *dot = strrchr(row->key, '.');

	return dot ? dot + 1 : row->key;
}

const struct conf_row *conf_table_find(struct slice parent, struct slice name)
{
	for (size_t i = 0; i < ROW_COUNT; i++)
		if (slice_eq(conf_table_parent(&rows[i]), parent) && slice_eq(slice_of(conf_table_name(&rows[i])), name))
			return &rows[i];
	return NULL;
}

const struct conf_row *conf_table_key(struct slice key)
{
	for (size_t i = 0; i < ROW_COUNT; i++)
		if (slice_eq(slice_of(rows[i].key), key))
			return &rows[i];
	return NULL;
}

const struct conf_row *conf_table_first(const char *list_key)
{
	size_t n = strlen(list_key);

	for (size_t i = 0; i < ROW_COUNT; i++)
		if (strncmp(rows[i].key, list_key, n) == 0 && strncmp(rows[i].key + n, "[].", 3) == 0)
			return &rows[i];
	return NULL;
}

/* Optimal string alignment: insert, delete, replace, swap of neighbours; ASCII case does not count. Three rolling
 * rows. */
unsigned conf_table_distance(struct slice a, struct slice b, unsigned most)
{
	enum { LONGEST = 48 };
	unsigned line[3][LONGEST + 1];

	if (a.n > LONGEST || b.n > LONGEST)
		return most + 1;
	for (size_t j = 0; j <= b.n; j++)
		line[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a.n; i++) {
		unsigned *now = line[i % 3], *last = line[(i + 2) % 3], *before = line[(i + 1) % 3];

		now[0] = (unsigned)i;
		for (size_t j = 1; j <= b.n; j++) {
			bool same = slice_ieq((struct slice){ a.p + i - 1, 1 }, (struct slice){ b.p + j - 1, 1 });
			unsigned least = last[j - 1] + !same;

			if (last[j] + 1 < least)
				least = last[j] + 1;
			if (now[j - 1] + 1 < least)
				least = now[j - 1] + 1;
			if (i > 1 && j > 1 && a.p[i - 1] == b.p[j - 2] && a.p[i - 2] == b.p[j - 1] && before[j - 2] + 1 < least)
				least = before[j - 2] + 1;
			now[j] = least;
		}
	}
	return line[a.n % 3][b.n] > most ? most + 1 : line[a.n % 3][b.n];
}

const char *conf_table_near(struct slice parent, struct slice name)
{
	unsigned best = name.n <= 3 ? 1 : name.n <= 6 ? 2 : 3;
	const char *near = NULL;

	for (size_t i = 0; i < ROW_COUNT; i++) {
		unsigned d;

		if (!slice_eq(conf_table_parent(&rows[i]), parent))
			continue;
		d = conf_table_distance(name, slice_of(conf_table_name(&rows[i])), best);
		if (d <= best && (!near || d < best)) {
			near = conf_table_name(&rows[i]);
			best = d;
		}
	}
	for (size_t i = 0; !near && i < ROW_COUNT; i++)
		if (slice_ieq(slice_of(conf_table_name(&rows[i])), name))
			near = rows[i].key;
	return near;
}
