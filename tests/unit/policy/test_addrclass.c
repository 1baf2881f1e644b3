/* Classes of addresses: one row per block of the registries, at both of its ends, and per disguise. */
#include "adit/policy/addrclass.h"

#include <criterion/criterion.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static struct addr literal(const char *text)
{
	struct addr a;

	cr_assert(addr_from_literal(&a, slice_of(text), 0), "%s", text);
	return a;
}

static struct cidr block(const char *text)
{
	struct cidr c;

	cr_assert(cidr_parse(&c, slice_of(text), NULL), "%s", text);
	return c;
}

static const struct {
	const char *text;
	enum addr_class class;
} ROWS[] = {
	{ "0.0.0.0", ADDR_LOOPBACK }, { "0.0.0.1", ADDR_SPECIAL }, { "0.255.255.255", ADDR_SPECIAL },
	{ "1.0.0.0", ADDR_PUBLIC }, { "9.255.255.255", ADDR_PUBLIC },
	{ "10.0.0.0", ADDR_RFC1918 }, { "10.255.255.255", ADDR_RFC1918 }, { "11.0.0.0", ADDR_PUBLIC },
	{ "100.63.255.255", ADDR_PUBLIC }, { "100.64.0.0", ADDR_CGNAT }, { "100.127.255.255", ADDR_CGNAT },
	{ "100.128.0.0", ADDR_PUBLIC },
	{ "126.255.255.255", ADDR_PUBLIC }, { "127.0.0.0", ADDR_LOOPBACK }, { "127.0.0.1", ADDR_LOOPBACK },
	{ "127.255.255.255", ADDR_LOOPBACK }, { "128.0.0.0", ADDR_PUBLIC },
	{ "169.253.255.255", ADDR_PUBLIC }, { "169.254.0.0", ADDR_LINK_LOCAL }, { "169.254.255.255", ADDR_LINK_LOCAL },
	{ "169.255.0.0", ADDR_PUBLIC },
	{ "172.15.255.255", ADDR_PUBLIC }, { "172.16.0.0", ADDR_RFC1918 }, { "172.31.255.255", ADDR_RFC1918 },
	{ "172.32.0.0", ADDR_PUBLIC },
	{ "192.0.0.0", ADDR_SPECIAL }, { "192.0.0.255", ADDR_SPECIAL }, { "192.0.1.0", ADDR_PUBLIC },
	{ "192.0.2.0", ADDR_SPECIAL }, { "192.0.2.255", ADDR_SPECIAL }, { "192.0.3.0", ADDR_PUBLIC },
	{ "192.88.99.1", ADDR_SPECIAL }, { "192.88.100.0", ADDR_PUBLIC },
	{ "192.167.255.255", ADDR_PUBLIC }, { "192.168.0.0", ADDR_RFC1918 }, { "192.168.255.255", ADDR_RFC1918 },
	{ "192.169.0.0", ADDR_PUBLIC },
	{ "198.17.255.255", ADDR_PUBLIC }, { "198.18.0.0", ADDR_SPECIAL }, { "198.19.255.255", ADDR_SPECIAL },
	{ "198.20.0.0", ADDR_PUBLIC }, { "198.51.100.7", ADDR_SPECIAL }, { "198.51.101.0", ADDR_PUBLIC },
	{ "203.0.113.7", ADDR_SPECIAL }, { "203.0.114.0", ADDR_PUBLIC }, { "223.255.255.255", ADDR_PUBLIC },
	{ "224.0.0.1", ADDR_SPECIAL }, { "239.255.255.255", ADDR_SPECIAL }, { "240.0.0.0", ADDR_SPECIAL },
	{ "255.255.255.255", ADDR_SPECIAL },

	{ "169.254.169.254", ADDR_METADATA }, { "169.254.169.253", ADDR_LINK_LOCAL }, { "169.254.170.2", ADDR_METADATA },
	{ "169.254.170.23", ADDR_METADATA }, { "169.254.0.23", ADDR_METADATA }, { "169.254.42.42", ADDR_METADATA },
	{ "100.100.100.200", ADDR_METADATA }, { "100.100.100.201", ADDR_CGNAT }, { "192.0.0.192", ADDR_METADATA },
	{ "168.63.129.16", ADDR_METADATA }, { "168.63.129.17", ADDR_PUBLIC },
	{ "fd00:ec2::254", ADDR_METADATA }, { "fd00:ec2::23", ADDR_METADATA }, { "fd00:ec2::255", ADDR_ULA },
	{ "fd20:ce::254", ADDR_METADATA }, { "fd00:42::42", ADDR_METADATA }, { "fe80::a9fe:a9fe", ADDR_METADATA },

	{ "::", ADDR_LOOPBACK }, { "::1", ADDR_LOOPBACK }, { "::2", ADDR_SPECIAL }, { "::127.0.0.1", ADDR_SPECIAL },
	{ "::ffff:0:7f00:1", ADDR_SPECIAL }, { "100::1", ADDR_SPECIAL }, { "1fff:ffff::", ADDR_SPECIAL },
	{ "2000::", ADDR_PUBLIC }, { "2001::1", ADDR_SPECIAL }, { "2001:0:4136:e378:8000:63bf:3fff:fdd2", ADDR_SPECIAL },
	{ "2001:1ff:ffff::", ADDR_SPECIAL }, { "2001:200::", ADDR_PUBLIC }, { "2001:db7:ffff::", ADDR_PUBLIC },
	{ "2001:db8::1", ADDR_SPECIAL }, { "2001:db9::", ADDR_PUBLIC }, { "2606:4700:4700::1111", ADDR_PUBLIC },
	{ "3ffe:ffff::", ADDR_PUBLIC }, { "3fff::1", ADDR_SPECIAL }, { "3fff:fff:ffff::", ADDR_SPECIAL },
	{ "3fff:1000::", ADDR_PUBLIC }, { "4000::", ADDR_SPECIAL }, { "5f00::1", ADDR_SPECIAL }, { "8000::", ADDR_SPECIAL },
	{ "fbff:ffff::", ADDR_SPECIAL }, { "fc00::", ADDR_ULA }, { "fdff:ffff::1", ADDR_ULA }, { "fe00::", ADDR_SPECIAL },
	{ "fe80::1", ADDR_LINK_LOCAL }, { "febf:ffff::1", ADDR_LINK_LOCAL }, { "fec0::1", ADDR_SPECIAL },
	{ "ff02::1", ADDR_SPECIAL }, { "ffff::", ADDR_SPECIAL },

	{ "::ffff:8.8.8.8", ADDR_PUBLIC }, { "::ffff:127.0.0.1", ADDR_LOOPBACK },
	{ "64:ff9b::8.8.8.8", ADDR_PUBLIC }, { "64:ff9b::127.0.0.1", ADDR_LOOPBACK }, { "64:ff9b::10.0.0.1", ADDR_RFC1918 },
	{ "64:ff9b::169.254.169.254", ADDR_METADATA }, { "64:ff9b::0.0.0.0", ADDR_LOOPBACK },
	{ "64:ff9b::224.0.0.1", ADDR_SPECIAL }, { "64:ff9b:0:0:1::8.8.8.8", ADDR_SPECIAL },
	{ "64:ff9b:1::8.8.8.8", ADDR_SPECIAL }, { "64:ff9b:1::10.0.0.1", ADDR_SPECIAL },
	{ "64:ff9b:1:808:8:800::", ADDR_SPECIAL }, { "64:ff9b:2::8.8.8.8", ADDR_SPECIAL },
	{ "2002:808:808::1", ADDR_PUBLIC }, { "2002:7f00:1::1", ADDR_LOOPBACK }, { "2002:a9fe:a9fe::", ADDR_METADATA },
	{ "2002:c0a8:101::1", ADDR_RFC1918 }, { "2002:6440:1::", ADDR_CGNAT }, { "2002:e000:1::", ADDR_SPECIAL },
};

Test(addrclass, registry)
{
	for (size_t i = 0; i < COUNT(ROWS); i++) {
		struct addr a = literal(ROWS[i].text);

		cr_expect_eq(addrclass_of(&a), ROWS[i].class, "%s: %d, not %d", ROWS[i].text, (int)addrclass_of(&a),
			     (int)ROWS[i].class);
	}
}

Test(addrclass, sets)
{
	static const enum addr_class members[ADDR_SET_COUNT] = {
		[ADDR_SET_LOOPBACK] = ADDR_LOOPBACK, [ADDR_SET_LINK_LOCAL] = ADDR_LINK_LOCAL, [ADDR_SET_RFC1918] = ADDR_RFC1918,
		[ADDR_SET_ULA] = ADDR_ULA, [ADDR_SET_CGNAT] = ADDR_CGNAT, [ADDR_SET_METADATA] = ADDR_METADATA,
	};

	for (size_t i = 0; i < COUNT(ROWS); i++) {
		struct addr a = literal(ROWS[i].text);

		cr_expect_eq(addrclass_in_set(&a, ADDR_SET_ANY), ROWS[i].class == ADDR_PUBLIC, "%s", ROWS[i].text);
		cr_expect_eq(addrclass_in_set(&a, ADDR_SET_PRIVATE), ROWS[i].class != ADDR_PUBLIC, "%s", ROWS[i].text);
		for (int set = ADDR_SET_LOOPBACK; set < ADDR_SET_COUNT; set++)
			cr_expect_eq(addrclass_in_set(&a, (enum addr_set)set), ROWS[i].class == members[set], "%s", ROWS[i].text);
		cr_expect_not(addrclass_in_set(&a, ADDR_SET_COUNT));
	}
}

/* A mapped address that nobody has turned into IPv4 on the way. */
Test(addrclass, mapped_by_hand)
{
	struct addr a = literal("::2");

	a.in6.sin6_addr.s6_addr[10] = 0xff;
	a.in6.sin6_addr.s6_addr[11] = 0xff;
	a.in6.sin6_addr.s6_addr[12] = 127;
	cr_expect_eq(addrclass_of(&a), ADDR_LOOPBACK);
}

Test(addrclass, blocks)
{
	static const struct {
		const char *address, *block;
		bool touches, named;
	} rows[] = {
		/* public: in it or not */
		{ "8.8.8.8", "8.8.8.0/24", true, true },
		{ "8.8.8.8", "0.0.0.0/0", true, true },
		{ "8.8.8.8", "8.8.9.0/24", false, false },
		{ "8.8.8.8", "::/0", false, false },
		{ "2606:4700::1", "::/0", true, true },
		{ "2606:4700::1", "2606:4700::/32", true, true },
		/* special use: the block has to lie within the special one */
		{ "10.1.2.3", "0.0.0.0/0", true, false },
		{ "10.1.2.3", "8.0.0.0/6", true, false },
		{ "10.1.2.3", "10.0.0.0/8", true, true },
		{ "10.1.2.3", "10.1.2.3/32", true, true },
		{ "172.16.0.1", "172.0.0.0/8", true, false },
		{ "172.16.0.1", "172.16.0.0/12", true, true },
		{ "127.0.0.1", "126.0.0.0/7", true, false },
		{ "127.0.0.1", "127.0.0.0/8", true, true },
		{ "127.0.0.1", "127.0.0.1", true, true },
		{ "0.0.0.0", "0.0.0.0/8", true, false },
		{ "0.0.0.0", "0.0.0.0/32", true, true },
		{ "::1", "::/0", true, false },
		{ "::1", "::1", true, true },
		{ "fd00::1", "fc00::/6", true, false },
		{ "fd00::1", "fc00::/7", true, true },
		{ "fd00::1", "fd00::/8", true, true },
		{ "fe80::1", "fe80::/10", true, true },
		{ "203.0.113.5", "203.0.113.0/24", true, true },
		{ "224.0.0.1", "224.0.0.0/3", true, false },
		{ "224.0.0.1", "224.0.0.0/4", true, true },
		{ "2001:db8::1", "2001:db8::/32", true, true },
		{ "2001:db8::1", "2000::/3", true, false },
		/* metadata: the address itself */
		{ "169.254.169.254", "169.254.0.0/16", true, false },
		{ "169.254.169.254", "169.254.169.254", true, true },
		{ "169.254.1.1", "169.254.0.0/16", true, true },
		{ "100.100.100.200", "100.64.0.0/10", true, false },
		{ "fd00:ec2::254", "fd00::/8", true, false },
		/* in disguise: the inner address counts, the outer block opens what is public inside */
		{ "64:ff9b::10.1.2.3", "10.0.0.0/8", true, true },
		{ "64:ff9b::10.1.2.3", "64:ff9b::/96", true, false },
		{ "64:ff9b::8.8.8.8", "64:ff9b::/96", true, true },
		{ "64:ff9b::8.8.8.8", "8.8.8.0/24", true, true },
		{ "64:ff9b::127.0.0.1", "127.0.0.0/8", true, true },
		{ "64:ff9b::169.254.169.254", "169.254.0.0/16", true, false },
		{ "2002:a01:203::1", "10.0.0.0/8", true, true },
		{ "2002:a01:203::1", "2002::/16", true, false },
		{ "2002:808:808::1", "2002::/16", true, true },
		{ "2002:808:808::1", "8.8.8.8", true, true },
		/* a site's NAT64: each place the inner address may be in is looked at to deny, its own block to allow */
		{ "64:ff9b:1::10.1.2.3", "10.0.0.0/8", true, false },
		{ "64:ff9b:1:a01:2:300::", "10.1.2.3", true, false },
		{ "64:ff9b:1:a:1:203::", "10.1.2.3", true, false },
		{ "64:ff9b:1::a:102:300:0", "10.1.2.3", true, false },
		{ "64:ff9b:1::10.1.2.3", "64:ff9b:1::/48", true, true },
		{ "64:ff9b:1::10.1.2.3", "64:ff9b::/32", true, false },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct addr a = literal(rows[i].address);
		struct cidr c = block(rows[i].block);

		cr_expect_eq(addrclass_touches(&a, &c), rows[i].touches, "%s, %s", rows[i].address, rows[i].block);
		cr_expect_eq(addrclass_named_by(&a, &c), rows[i].named, "%s, %s", rows[i].address, rows[i].block);
	}
}
