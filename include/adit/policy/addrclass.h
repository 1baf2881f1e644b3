/* What kind of address is this? From the IANA special-purpose registries (RFC 6890 and its updates), IPv4-mapped,
 * NAT64 (64:ff9b::/96) and 6to4 forms judged by the IPv4 address inside. 64:ff9b:1::/48 can hold that address in
 * several places, so nothing in it is public, and a rule for it names it as it is. Pure.
 *
 * The classes are disjoint: 169.254.169.254 is metadata and not link-local, 100.100.100.200 metadata and not cgnat. */
#ifndef ADIT_POLICY_ADDRCLASS_H
#define ADIT_POLICY_ADDRCLASS_H

#include "adit/base/addr.h"
#include "adit/conf/conf.h"

enum addr_class {
	ADDR_PUBLIC, ADDR_LOOPBACK, ADDR_LINK_LOCAL, ADDR_RFC1918, ADDR_ULA, ADDR_CGNAT, ADDR_METADATA,
	ADDR_SPECIAL /* special use without a name of its own: documentation, multicast, reserved, ... */
};

enum addr_class addrclass_of(const struct addr *a);
/* Is the address in the set a rule names? `any` is every public address, `private` everything else. */
bool addrclass_in_set(const struct addr *a, enum addr_set set);

enum { ADDR_READINGS_MAX = 5 };
/* The address and the IPv4 addresses it may stand for, itself first; how many. */
size_t addrclass_readings(const struct addr *a, struct addr out[static ADDR_READINGS_MAX]);

/* Is the address, or one it may stand for, in the block? For denying. */
bool addrclass_touches(const struct addr *a, const struct cidr *block);
/* Does a rule that names the block mean this address? For allowing: it is in the block, by itself or by all that it
 * may stand for, and when it is of special use, the block lies within that special-use block: 0.0.0.0/0 does not name
 * 10.0.0.1, and 169.254.0.0/16 does not name 169.254.169.254. */
bool addrclass_named_by(const struct addr *a, const struct cidr *block);

#endif
