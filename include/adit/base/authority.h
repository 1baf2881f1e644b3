/* host:port of a CONNECT request (RFC 9112 3.2.3) and hosts in rules: text in, typed value out. Pure. */
#ifndef ADIT_BASE_AUTHORITY_H
#define ADIT_BASE_AUTHORITY_H

#include "adit/base/addr.h"
#include "adit/base/reason.h"

/* Not HOST_NAME_MAX: <limits.h> has a macro of that name. */
enum { HOST_TEXT_MAX = 253, HOST_LABEL_MAX = 63 };

enum host_kind { HOST_IS_NAME, HOST_IS_ADDRESS };

struct host {
	enum host_kind kind;
	/* HOST_IS_NAME: lower-cased, one trailing dot stripped. HOST_IS_ADDRESS: canonical text without brackets. */
	char text[HOST_TEXT_MAX + 1];
	struct addr addr; /* HOST_IS_ADDRESS: port 0 */
};

struct authority {
	struct host host;
	uint16_t port; /* 1-65535 */
};

/* A name: LDH and '_', labels 1-63, whole at most 253, no empty label, one trailing dot allowed; no label may begin
 * or end with '-'. A last label of digits or 0x-hex must make a canonical dotted quad, which is then an address;
 * "[...]" is an IPv6 literal without zone. IPv4-mapped literals become IPv4.
 * REASON_OK or the REASON_* that says what is wrong. */
enum reason host_parse(struct slice text, struct host *out);

/* host ":" port, both required, port in plain digits 1-65535 without leading zeros; no userinfo, no path. */
enum reason authority_parse(struct slice text, struct authority *out);
/* The same with an optional port, for Host fields and http:// URLs; default_port 0: required all the same. */
enum reason authority_parse_default(struct slice text, uint16_t default_port, struct authority *out);

#endif
