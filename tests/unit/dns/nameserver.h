/* A name server for tests, UDP and TCP on one port of 127.0.0.1, on the event base of the test itself: it answers by a
 * table, counts, lies, and holds answers back until told. */
#ifndef ADIT_TESTS_NAMESERVER_H
#define ADIT_TESTS_NAMESERVER_H

#include "adit/base/addr.h"

struct event_base;
struct nameserver;

enum ns_kind {
	NS_NODATA, /* the name is there, the type is not */
	NS_DATA,
	NS_NXDOMAIN,
	NS_SERVFAIL,
	NS_SILENT,
	NS_HOLD, /* data, when ns_release is called */
	NS_TRUNCATED, /* over UDP; data over TCP */
	NS_ALIAS, /* data behind a chain of two CNAMEs */
	NS_ALIAS_ALONE, /* a CNAME that leads nowhere */
	NS_WRONG_ID, /* a lie, then the truth */
	NS_WRONG_QUESTION, /* likewise */
	NS_WRONG_ALWAYS, /* lies alone */
	NS_NO_EDNS, /* FORMERR to a question with OPT, as an old server */
	NS_GARBAGE, /* a header, then nonsense */
};

struct ns_set {
	enum ns_kind kind;
	unsigned count; /* addresses */
	unsigned ttl_s;
	unsigned repeat; /* each address so often (0: once) */
};

struct ns_zone {
	const char *name;
	struct ns_set a, aaaa;
};

/* zones end with a NULL name; a name not among them does not exist */
struct nameserver *ns_new(struct event_base *base, const struct ns_zone *zones);
void ns_free(struct nameserver *ns);
void ns_address(const struct nameserver *ns, struct addr *out);
void ns_release(struct nameserver *ns);
void ns_set_zones(struct nameserver *ns, const struct ns_zone *zones);

unsigned ns_udp_count(const struct nameserver *ns);
unsigned ns_tcp_count(const struct nameserver *ns);
unsigned ns_held(const struct nameserver *ns);
/* The last question's name as it came, for what was (not) appended to it. */
const char *ns_last_name(const struct nameserver *ns);

/* The i-th address of a set. */
void ns_make_address(int family, unsigned i, struct addr *out);

#endif
