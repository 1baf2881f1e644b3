/* The configuration: one immutable, reference-counted snapshot, made from a file (libyaml) and/or command line
 * options by one table of options (conf_table). All errors are collected and reported at once. */
#ifndef ADIT_CONF_CONF_H
#define ADIT_CONF_CONF_H

#include "adit/base/addr.h"
#include "adit/base/authority.h"
#include "adit/base/obj.h"
#include <stdio.h>

/* Where a value came from, for messages of later stages: "adit.yaml:12:5" or "--listen". */
struct conf_where {
	unsigned line, column; /* 0,0: not from the file */
};

struct conf_listen {
	struct addr address;
	bool close_after_refusal; /* RFC 9931; default on */
	bool http2; /* ALPN h2; default on */
	struct conf_where where;
};

struct conf_certificate {
	char *chain, *key; /* PEM paths */
	struct conf_where where;
};

enum addr_set { /* names in rules; what they mean: policy/addrclass.h */
	ADDR_SET_ANY, ADDR_SET_PRIVATE, ADDR_SET_LOOPBACK, ADDR_SET_LINK_LOCAL, ADDR_SET_RFC1918, ADDR_SET_ULA,
	ADDR_SET_CGNAT, ADDR_SET_METADATA, ADDR_SET_COUNT
};
const char *conf_set_name(enum addr_set set);

enum conf_to_kind { CONF_TO_SET, CONF_TO_CIDR, CONF_TO_NAME, CONF_TO_SUFFIX };
struct conf_to {
	enum conf_to_kind kind;
	enum addr_set set;
	struct cidr cidr;
	char *name; /* NAME: canonical host text; SUFFIX: "example.org" for "*.example.org" */
};
struct conf_ports { uint16_t first, last; };
struct conf_rule {
	char *name; /* unique; given or "rule-N" */
	bool allow;
	char **users; size_t user_count; /* none: every user */
	struct conf_to *to; size_t to_count; /* at least one */
	struct conf_ports *ports; size_t port_count; /* "any" is 1-65535; none: 443 for CONNECT, else 80 and 443 */
	struct conf_where where;
};

struct conf_rate { unsigned count; unsigned per_ms; }; /* count 0: off; per_ms is never 0 */

/* The most that tunnel.buffer may be. */
enum { CONF_TUNNEL_BUFFER_MOST = 16 << 20 };

/* A duration that is off: the same number as loop.h's DEADLINE_OFF, which is above this layer. */
#define CONF_OFF 0xffffffffu

struct conf {
	unsigned magic;
	_Atomic unsigned refs;
	char *path; /* NULL: options only */

	struct conf_listen *listen; size_t listen_count;

	struct {
		struct conf_certificate *certificates; size_t certificate_count;
		bool min_version_13; /* minimum_version: 1.2 | 1.3 */
		char *ticket_secret; /* path of a file with the shared secret; NULL: random at start */
		unsigned ticket_lifetime_ms;
	} tls;
	struct {
		char *htpasswd;
		char *realm;
		bool throttle; /* throttle: off */
		unsigned failures, window_ms; struct conf_rate per_prefix;
		unsigned cache_ms, wrong_cache_ms; size_t cache_entries;
		unsigned threads; /* 0: auto */
		unsigned queue; /* hashes that may wait */
	} auth;
	struct {
		struct conf_rule *rules; size_t rule_count;
	} policy;
	struct {
		unsigned cache_entries, negative_ms, ttl_max_ms;
		unsigned queries; /* distinct names in flight per worker */
		struct addr *servers; size_t server_count; /* none: /etc/resolv.conf */
	} dns;
	struct {
		struct addr source_v4, source_v6; /* len 0: the kernel chooses */
	} dial;
	struct {
		size_t request_line_bytes, head_bytes, fields;
		char *pac; /* "host:port" that GET /proxy.pac tells browsers; NULL: off */
	} http;
	struct { /* towards one client connection */
		unsigned streams; /* at one time */
		size_t header_list_bytes;
		size_t window_bytes, stream_window_bytes; /* the sum of all streams' windows; the most for one */
		unsigned ping_ms; /* CONF_OFF: none is sent */
	} http2;
	struct {
		unsigned idle_connections, idle_ms; /* to targets, per worker; 0: none are kept */
	} forward;
	struct {
		size_t buffer_bytes; /* per direction: what may wait for a slow side */
	} tunnel;
	struct {
		char *directory; /* default /var/log/adit; never NULL after a load */
		char *node; /* node name in records; default the host's name */
		unsigned progress_ms;
		bool on_failure_allow; /* on_failure: deny | allow */
		size_t stranger_bytes; /* cap of the file of refusals before authentication */
		size_t open_files; /* per-user descriptors kept */
		size_t queue; /* records that may wait for the writer */
	} audit;
	struct {
		unsigned connections, unauthenticated, unauthenticated_per_prefix; /* 0: off */
		struct conf_rate handshakes_per_prefix;
	} limits;
	struct { /* ms; CONF_OFF for "off" */
		unsigned handshake, head, auth, resolve, dial, dial_address, audit, linger, response, idle, half_closed, stall,
			lifetime, drain, keepalive;
	} deadlines;
	unsigned workers; /* resolved: at least 1 */
	char *user; /* NULL: stay */
	int log_level; /* enum log_level */
};

/* Errors of one load, in order; none when count and left_out are both 0 (a message for which there is no memory is
 * left out, too); text is complete: "adit.yaml:3:5: tls.certificates: ...". */
struct conf_errors {
	char **text; size_t count;
	size_t left_out; /* beyond a bound */
};
void conf_errors_add(struct conf_errors *e, const char *fmt, ...) ADIT_PRINTF(2, 3);
void conf_errors_print(const struct conf_errors *e, FILE *to);
void conf_errors_free(struct conf_errors *e);

/* Values from the command line, by dotted key: "audit.directory", "auth.throttle.failures". An option overrides
 * the file's value. The first one for a list empties it, and each adds to it: "listen" and "dns.servers" take an
 * address each, the n-th "tls.certificates.chain" and the n-th "tls.certificates.key" belong together,
 * "policy.rules" takes the whole list as YAML ("[{action: allow, to: any}]"). */
struct conf_option { const char *key; const char *value; };

/* The key that an option of the command line stands for ("--listen" -> "listen"), and what its value is called there.
 * NULL when there is none such; *near is then the one that may have been meant, or NULL. */
const char *conf_option_key(const char *option, const char **argument, const char **near);
/* Those options with their defaults, for --help. */
void conf_print_options(FILE *to);

/* Reads path (NULL: none) and options; on errors returns NULL and fills `errors` with all of them.
 * The reference belongs to the caller. Reads files: never on an event loop. */
struct conf *conf_load(const char *path, const struct conf_option *options, size_t option_count,
	struct conf_errors *errors) ADIT_MUST_USE;
/* What `adit serve` cannot do without (a certificate, an htpasswd file): adds a sentence for each that is missing.
 * True when nothing is. */
bool conf_complete(const struct conf *conf, struct conf_errors *errors);
/* What a reload from `running` to `fresh` cannot change: adds a sentence for each. True when there is nothing. */
bool conf_reloadable(const struct conf *running, const struct conf *fresh, struct conf_errors *notes);

struct conf *conf_ref(struct conf *conf);
void conf_unref(struct conf *conf);

/* The effective configuration as YAML that conf_load reads back to the same snapshot. */
void conf_print(const struct conf *conf, FILE *to);
/* The reference of every option as roff for adit.yaml(5), from the same table. */
void conf_print_reference(FILE *to);

#endif
