/* Classes of addresses, from one table.
 *
 * What is hard: an address may be another one in disguise (IPv4 in NAT64 and 6to4), and a block that an operator wrote
 * down must only open what he meant. Both go by the first row of the table that holds the address. */
#include "adit/policy/addrclass.h"

#include <string.h>

/* A row of the table; IPv4 blocks in their mapped form, as struct cidr has them. */
struct row {
	struct cidr block;
	enum addr_class class;
};

#define V4(a, b, c, d, n) { { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d }, 96 + (n) }
#define V6(n, ...) { { __VA_ARGS__ }, n }

/* Narrow before wide: the first row that holds an address is its class. None: public. */
static const struct row ROWS[] = {
	/* Where clouds tell a machine its secrets. Wider blocks around these do not include them. */
	{ V4(169, 254, 169, 254, 32), ADDR_METADATA }, /* AWS, GCP, Azure, OpenStack, DigitalOcean, ... */
	{ V4(169, 254, 170, 2, 32), ADDR_METADATA }, /* AWS ECS */
	{ V4(169, 254, 170, 23, 32), ADDR_METADATA }, /* AWS EKS */
	{ V4(169, 254, 0, 23, 32), ADDR_METADATA }, /* Tencent */
	{ V4(169, 254, 42, 42, 32), ADDR_METADATA }, /* Scaleway */
	{ V4(100, 100, 100, 200, 32), ADDR_METADATA }, /* Alibaba */
	{ V4(192, 0, 0, 192, 32), ADDR_METADATA }, /* Oracle */
	{ V4(168, 63, 129, 16, 32), ADDR_METADATA }, /* Azure's wire server, in a public block */
	{ V6(128, 0xfd, 0, 0x0e, 0xc2, [14] = 0x02, [15] = 0x54), ADDR_METADATA }, /* AWS */
	{ V6(128, 0xfd, 0, 0x0e, 0xc2, [15] = 0x23), ADDR_METADATA }, /* AWS EKS */
	{ V6(128, 0xfd, 0x20, 0, 0xce, [14] = 0x02, [15] = 0x54), ADDR_METADATA }, /* GCP */
	{ V6(128, 0xfd, 0, 0, 0x42, [15] = 0x42), ADDR_METADATA }, /* Scaleway */
	{ V6(128, 0xfe, 0x80, [12] = 0xa9, 0xfe, 0xa9, 0xfe), ADDR_METADATA }, /* OpenStack */

	{ V4(0, 0, 0, 0, 32), ADDR_LOOPBACK }, /* connect() takes it for this host */
	{ V4(0, 0, 0, 0, 8), ADDR_SPECIAL }, /* "this network" */
	{ V4(10, 0, 0, 0, 8), ADDR_RFC1918 },
	{ V4(100, 64, 0, 0, 10), ADDR_CGNAT },
	{ V4(127, 0, 0, 0, 8), ADDR_LOOPBACK },
	{ V4(169, 254, 0, 0, 16), ADDR_LINK_LOCAL },
	{ V4(172, 16, 0, 0, 12), ADDR_RFC1918 },
	{ V4(192, 0, 0, 0, 24), ADDR_SPECIAL }, /* IETF protocol assignments */
	{ V4(192, 0, 2, 0, 24), ADDR_SPECIAL }, /* documentation */
	{ V4(192, 88, 99, 0, 24), ADDR_SPECIAL }, /* 6to4 relays, withdrawn */
	{ V4(192, 168, 0, 0, 16), ADDR_RFC1918 },
	{ V4(198, 18, 0, 0, 15), ADDR_SPECIAL }, /* benchmarks */
	{ V4(198, 51, 100, 0, 24), ADDR_SPECIAL }, /* documentation */
	{ V4(203, 0, 113, 0, 24), ADDR_SPECIAL }, /* documentation */
	{ V4(224, 0, 0, 0, 4), ADDR_SPECIAL }, /* multicast */
	{ V4(240, 0, 0, 0, 4), ADDR_SPECIAL }, /* reserved, broadcast */

	{ V6(128, [15] = 0), ADDR_LOOPBACK }, /* :: */
	{ V6(128, [15] = 1), ADDR_LOOPBACK }, /* ::1 */
	{ V6(7, 0xfc), ADDR_ULA },
	{ V6(10, 0xfe, 0x80), ADDR_LINK_LOCAL },
	{ V6(48, 0, 0x64, 0xff, 0x9b, 0, 1), ADDR_SPECIAL }, /* NAT64 of a site */
	{ V6(23, 0x20, 0x01), ADDR_SPECIAL }, /* IETF protocol assignments: Teredo, ORCHID, benchmarks */
	{ V6(32, 0x20, 0x01, 0x0d, 0xb8), ADDR_SPECIAL }, /* documentation */
	{ V6(20, 0x3f, 0xff), ADDR_SPECIAL }, /* documentation */
	/* What is not global unicast (2000::/3) is multicast, withdrawn, discarded or not yet given out. */
	{ V6(3, 0), ADDR_SPECIAL },
	{ V6(2, 0x40), ADDR_SPECIAL },
	{ V6(1, 0x80), ADDR_SPECIAL },
};

static const struct cidr NAT64 = V6(96, 0, 0x64, 0xff, 0x9b);
static const struct cidr NAT64_SITE = V6(48, 0, 0x64, 0xff, 0x9b, 0, 1);
static const struct cidr SIX_TO_FOUR = V6(16, 0x20, 0x02);

/* Where RFC 6052 puts the four bytes behind prefixes of 48, 56, 64 and 96 bits (byte 8 is skipped). */
static const uint8_t SITE_BYTES[4][4] = { { 6, 7, 9, 10 }, { 7, 9, 10, 11 }, { 9, 10, 11, 12 }, { 12, 13, 14, 15 } };

static const struct row *row_of(const struct addr *a)
{
	for (size_t i = 0; i < sizeof(ROWS) / sizeof(ROWS[0]); i++)
		if (cidr_contains(&ROWS[i].block, a))
			return &ROWS[i];
	return NULL;
}

static struct addr v4_of(const uint8_t bytes[static 16], const uint8_t where[static 4])
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	uint8_t quad[4];
	struct addr out;

	for (int i = 0; i < 4; i++)
		quad[i] = bytes[where[i]];
	memcpy(&in.sin_addr, quad, sizeof(quad));
	addr_from_sockaddr(&out, (const struct sockaddr *)&in, sizeof(in));
	return out;
}

size_t addrclass_readings(const struct addr *a, struct addr out[static ADDR_READINGS_MAX])
{
	static const uint8_t BYTES_6TO4[4] = { 2, 3, 4, 5 };
	uint8_t bytes[16];
	size_t n = 1;

	/* Mapped addresses are undone again: whoever made this one may have filled it by hand. */
	if (!addr_from_sockaddr(&out[0], &a->sa, a->len))
		out[0] = *a;
	addr_bytes(&out[0], bytes);
	if (cidr_contains(&NAT64, &out[0]))
		out[n++] = v4_of(bytes, SITE_BYTES[3]);
	else if (cidr_contains(&SIX_TO_FOUR, &out[0]))
		out[n++] = v4_of(bytes, BYTES_6TO4);
	else if (cidr_contains(&NAT64_SITE, &out[0]))
		for (size_t i = 0; i < 4; i++)
			out[n++] = v4_of(bytes, SITE_BYTES[i]);
	return n;
}

/* The row that judges the address: of NAT64 and 6to4 forms the inner one's. */
static const struct row *judge(const struct addr *a)
{
	struct addr readings[ADDR_READINGS_MAX];

	return row_of(&readings[addrclass_readings(a, readings) == 2 ? 1 : 0]);
}

enum addr_class addrclass_of(const struct addr *a)
{
	const struct row *row = judge(a);

	return row ? row->class : ADDR_PUBLIC;
}

bool addrclass_in_set(const struct addr *a, enum addr_set set)
{
	enum addr_class class = addrclass_of(a);

	switch (set) {
	case ADDR_SET_ANY: return class == ADDR_PUBLIC;
	case ADDR_SET_PRIVATE: return class != ADDR_PUBLIC;
	case ADDR_SET_LOOPBACK: return class == ADDR_LOOPBACK;
	case ADDR_SET_LINK_LOCAL: return class == ADDR_LINK_LOCAL;
	case ADDR_SET_RFC1918: return class == ADDR_RFC1918;
	case ADDR_SET_ULA: return class == ADDR_ULA;
	case ADDR_SET_CGNAT: return class == ADDR_CGNAT;
	case ADDR_SET_METADATA: return class == ADDR_METADATA;
	case ADDR_SET_COUNT: break;
	}
	return false;
}

bool addrclass_touches(const struct addr *a, const struct cidr *block)
{
	struct addr readings[ADDR_READINGS_MAX];
	size_t n = addrclass_readings(a, readings);

	for (size_t i = 0; i < n; i++)
		if (cidr_contains(block, &readings[i]))
			return true;
	return false;
}

bool addrclass_named_by(const struct addr *a, const struct cidr *block)
{
	struct addr readings[ADDR_READINGS_MAX];
	size_t n = addrclass_readings(a, readings);
	const struct row *row = judge(a);
	bool inner = n > 1;

	for (size_t i = 1; i < n; i++)
		inner = inner && cidr_contains(block, &readings[i]);
	if (!inner && !cidr_contains(block, &readings[0]))
		return false;
	return !row || cidr_within(block, &row->block);
}
