/* Addresses: every way in gives one form, and blocks know their family. */
#include "adit/base/addr.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static struct addr literal(const char *text, uint16_t port)
{
	struct addr a;

	cr_assert(addr_from_literal(&a, slice_of(text), port), "%s", text);
	return a;
}

static struct cidr block(const char *text)
{
	struct cidr c;

	cr_assert(cidr_parse(&c, slice_of(text), NULL), "%s", text);
	return c;
}

Test(addr, literals)
{
	static const struct {
		const char *in, *out; /* NULL: refused */
	} rows[] = {
		{ "127.0.0.1", "127.0.0.1" },
		{ "0.0.0.0", "0.0.0.0" },
		{ "255.255.255.255", "255.255.255.255" },
		{ "::", "::" },
		{ "::1", "::1" },
		{ "2001:DB8:0:0:0:0:0:1", "2001:db8::1" },
		{ "::ffff:10.1.2.3", "10.1.2.3" },
		{ "::FFFF:0a01:0203", "10.1.2.3" },
		{ "64:ff9b::1.2.3.4", "64:ff9b::102:304" },
		{ "", NULL },
		{ "1.2.3", NULL },
		{ "1.2.3.4.5", NULL },
		{ "1.2.3.4.", NULL },
		{ ".1.2.3.4", NULL },
		{ "1..2.3", NULL },
		{ "01.2.3.4", NULL },
		{ "1.2.3.04", NULL },
		{ "00.0.0.0", NULL },
		{ "1.2.3.256", NULL },
		{ "1.2.3.4294967297", NULL },
		{ "0x7f.0.0.1", NULL },
		{ "127.1", NULL },
		{ "2130706433", NULL },
		{ "+1.2.3.4", NULL },
		{ " 1.2.3.4", NULL },
		{ "1.2.3.4 ", NULL },
		{ "1.2.3.4:80", NULL },
		{ ":", NULL },
		{ ":::", NULL },
		{ "::1::", NULL },
		{ "1:2:3:4:5:6:7", NULL },
		{ "1:2:3:4:5:6:7:8:9", NULL },
		{ "12345::", NULL },
		{ "g::", NULL },
		{ "::ffff:1.2.3.04", NULL },
		{ "::ffff:1.2.3", NULL },
		{ "[::1]", NULL },
		{ "fe80::1%eth0", NULL },
		{ "fe80::1%1", NULL },
		{ "::1/128", NULL },
		{ "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000", NULL },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct addr a;
		char buf[ADDR_TEXT_SIZE];
		bool good = addr_from_literal(&a, slice_of(rows[i].in), 7);

		cr_expect_eq(good, rows[i].out != NULL, "%s", rows[i].in);
		if (good && rows[i].out) {
			cr_expect_str_eq(addr_host_text(&a, buf), rows[i].out);
			cr_expect_eq(addr_port(&a), 7);
		} else {
			cr_expect_eq(a.len, 0, "%s", rows[i].in);
		}
	}
	/* A NUL inside is no end. */
	struct addr a;
	cr_expect_not(addr_from_literal(&a, (struct slice){ "::1\0", 4 }, 0));
	cr_expect_not(addr_from_literal(&a, (struct slice){ "1.2.3.4\0", 8 }, 0));
}

Test(addr, with_port)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
		{ "127.0.0.1:8443", "127.0.0.1:8443" },
		{ "0.0.0.0:0", "0.0.0.0:0" },
		{ "[::1]:65535", "[::1]:65535" },
		{ "[::]:0", "[::]:0" },
		{ "[::ffff:1.2.3.4]:80", "1.2.3.4:80" },
		{ "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535" },
		{ "", NULL },
		{ ":", NULL },
		{ ":80", NULL },
		{ "127.0.0.1", NULL },
		{ "127.0.0.1:", NULL },
		{ "127.0.0.1:080", NULL },
		{ "127.0.0.1:+80", NULL },
		{ "127.0.0.1:65536", NULL },
		{ "127.0.0.1: 80", NULL },
		{ "localhost:80", NULL },
		{ "*:80", NULL },
		{ "::1:80", NULL },
		{ "[::1]80", NULL },
		{ "[::1]", NULL },
		{ "[::1", NULL },
		{ "[::1:80", NULL },
		{ "[]:80", NULL },
		{ "[127.0.0.1]:80", NULL },
		{ "[fe80::1%lo]:80", NULL },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct addr a;
		char buf[ADDR_TEXT_SIZE];
		bool good = addr_parse(&a, slice_of(rows[i].in));

		cr_expect_eq(good, rows[i].out != NULL, "%s", rows[i].in);
		cr_expect_str_eq(addr_text(&a, buf), rows[i].out ? rows[i].out : "-", "%s", rows[i].in);
	}
}

Test(addr, from_the_kernel)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(80), .sin_addr = { htonl(0x01020304) } };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(443), .sin6_scope_id = 3 };
	struct sockaddr un = { .sa_family = AF_UNIX };
	struct addr a, b;
	char buf[ADDR_TEXT_SIZE];

	cr_assert(addr_from_sockaddr(&a, (struct sockaddr *)&in, sizeof(in)));
	cr_expect_str_eq(addr_text(&a, buf), "1.2.3.4:80");
	cr_expect_not(addr_from_sockaddr(&a, (struct sockaddr *)&in, sizeof(in) - 1));
	cr_expect_eq(a.len, 0);

	inet_pton(AF_INET6, "::ffff:1.2.3.4", &in6.sin6_addr);
	cr_assert(addr_from_sockaddr(&b, (struct sockaddr *)&in6, sizeof(in6)));
	cr_expect_eq(b.sa.sa_family, AF_INET);
	cr_expect_eq(b.len, sizeof(struct sockaddr_in));
	cr_expect_str_eq(addr_text(&b, buf), "1.2.3.4:443");
	cr_assert(addr_from_sockaddr(&a, (struct sockaddr *)&in, sizeof(in)));
	cr_expect(addr_same_host(&a, &b));
	cr_expect_not(addr_equal(&a, &b));
	addr_set_port(&a, 443);
	cr_expect(addr_equal(&a, &b));

	inet_pton(AF_INET6, "fe80::1", &in6.sin6_addr);
	cr_assert(addr_from_sockaddr(&b, (struct sockaddr *)&in6, sizeof(in6)));
	cr_expect_eq(b.in6.sin6_scope_id, 3);
	cr_expect_str_eq(addr_text(&b, buf), "[fe80::1]:443");
	a = literal("fe80::1", 443);
	cr_expect_not(addr_same_host(&a, &b), "another link");
	cr_expect_not(addr_from_sockaddr(&b, (struct sockaddr *)&in6, sizeof(in6) - 1));

	cr_expect_not(addr_from_sockaddr(&b, &un, sizeof(un)));
	cr_expect_not(addr_from_sockaddr(&b, (struct sockaddr *)&in, 1));
	cr_expect_not(addr_from_sockaddr(&b, NULL, 0));
	cr_expect_eq(addr_port(&b), 0);
	cr_expect_str_eq(addr_host_text(&b, buf), "-");
	cr_expect_not(addr_same_host(&a, &b));
}

Test(addr, blocks)
{
	static const struct {
		const char *in, *out;
		bool host_bits;
	} rows[] = {
		{ "10.0.0.0/8", "10.0.0.0/8", false },
		{ "0.0.0.0/0", "0.0.0.0/0", false },
		{ "192.0.2.1", "192.0.2.1/32", false },
		{ "192.0.2.128/25", "192.0.2.128/25", false },
		{ "fc00::/7", "fc00::/7", false },
		{ "::/0", "::/0", false },
		{ "2001:db8::1", "2001:db8::1/128", false },
		{ "::ffff:10.0.0.0/104", "10.0.0.0/8", false },
		{ "10.0.0.1/8", NULL, true },
		{ "192.0.2.129/25", NULL, true },
		{ "fd00::/7", NULL, true },
		{ "::1/0", NULL, true },
		{ "10.0.0.0/", NULL, false },
		{ "10.0.0.0/33", NULL, false },
		{ "10.0.0.0/08", NULL, false },
		{ "10.0.0.0/-1", NULL, false },
		{ "10.0.0.0/8/8", NULL, false },
		{ "10.0.0.0/255.0.0.0", NULL, false },
		{ "::/129", NULL, false },
		{ "10/8", NULL, false },
		{ "/8", NULL, false },
		{ "", NULL, false },
		{ "example.org/8", NULL, false },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct cidr c;
		char buf[ADDR_TEXT_SIZE];
		bool host_bits = true, good = cidr_parse(&c, slice_of(rows[i].in), &host_bits);

		cr_expect_eq(good, rows[i].out != NULL, "%s", rows[i].in);
		cr_expect_eq(host_bits, rows[i].host_bits, "%s", rows[i].in);
		if (good && rows[i].out)
			cr_expect_str_eq(cidr_text(&c, buf), rows[i].out);
	}
}

Test(addr, contains)
{
	static const struct {
		const char *block, *address;
		bool in;
	} rows[] = {
		{ "10.0.0.0/8", "10.255.255.255", true },
		{ "10.0.0.0/8", "11.0.0.0", false },
		{ "10.0.0.0/8", "::ffff:10.1.1.1", true },
		{ "0.0.0.0/0", "255.255.255.255", true },
		{ "0.0.0.0/0", "::1", false },
		{ "::/0", "2001:db8::1", true },
		{ "::/0", "1.2.3.4", false },
		{ "172.16.0.0/12", "172.31.255.255", true },
		{ "172.16.0.0/12", "172.32.0.0", false },
		{ "192.0.2.1", "192.0.2.1", true },
		{ "192.0.2.1", "192.0.2.0", false },
		{ "fc00::/7", "fdff::1", true },
		{ "fc00::/7", "fe00::1", false },
		{ "2001:db8::1", "2001:db8::1", true },
		{ "2001:db8::1", "2001:db8::", false },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct cidr c = block(rows[i].block);
		struct addr a = literal(rows[i].address, 1);

		cr_expect_eq(cidr_contains(&c, &a), rows[i].in, "%s in %s", rows[i].address, rows[i].block);
	}
	struct cidr all = block("::/0");
	struct addr none = { .len = 0 };
	cr_expect_not(cidr_contains(&all, &none));
}

Test(addr, within)
{
	static const struct {
		const char *inner, *outer;
		bool in;
	} rows[] = {
		{ "10.20.0.0/16", "10.0.0.0/8", true },
		{ "10.0.0.0/8", "10.0.0.0/8", true },
		{ "10.0.0.0/8", "10.20.0.0/16", false },
		{ "0.0.0.0/0", "10.0.0.0/8", false },
		{ "11.0.0.0/8", "10.0.0.0/8", false },
		{ "10.0.0.0/8", "::/0", false },
		{ "fd00::/8", "fc00::/7", true },
		{ "fd00::/8", "0.0.0.0/0", false },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct cidr inner = block(rows[i].inner), outer = block(rows[i].outer);

		cr_expect_eq(cidr_within(&inner, &outer), rows[i].in, "%s in %s", rows[i].inner, rows[i].outer);
	}
}

Test(addr, prefixes)
{
	static const struct {
		const char *address;
		unsigned v4, v6;
		const char *prefix;
	} rows[] = {
		{ "192.0.2.77", 32, 64, "192.0.2.77/32" },
		{ "192.0.2.77", 24, 48, "192.0.2.0/24" },
		{ "192.0.2.77", 0, 0, "0.0.0.0/0" },
		{ "::ffff:192.0.2.77", 24, 48, "192.0.2.0/24" },
		{ "2001:db8:1:2:3:4:5:6", 32, 64, "2001:db8:1:2::/64" },
		{ "2001:db8:1:2:3:4:5:6", 24, 48, "2001:db8:1::/48" },
		{ "2001:db8:1:ffff::", 24, 50, "2001:db8:1:c000::/50" },
		{ "2001:db8::1", 32, 128, "2001:db8::1/128" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct addr a = literal(rows[i].address, 9);
		struct cidr c = addr_prefix(&a, rows[i].v4, rows[i].v6);
		char buf[ADDR_TEXT_SIZE];

		cr_expect_str_eq(cidr_text(&c, buf), rows[i].prefix);
		cr_expect(cidr_contains(&c, &a));
	}
}

Test(addr, overlaps)
{
	static const struct {
		const char *a, *b;
		bool overlap;
	} rows[] = {
		{ "127.0.0.1:80", "127.0.0.1:80", true },
		{ "127.0.0.1:80", "127.0.0.2:80", false },
		{ "127.0.0.1:80", "127.0.0.1:81", false },
		{ "0.0.0.0:80", "127.0.0.1:80", true },
		{ "0.0.0.0:80", "127.0.0.1:81", false },
		{ "0.0.0.0:80", "[::1]:80", false },
		{ "[::]:80", "[::1]:80", true },
		{ "[::]:80", "127.0.0.1:80", true },
		{ "[::]:80", "0.0.0.0:80", true },
		{ "[::1]:80", "[::2]:80", false },
		{ "[::]:0", "0.0.0.0:0", false },
		{ "127.0.0.1:0", "127.0.0.1:0", false },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct addr a, b;

		cr_assert(addr_parse(&a, slice_of(rows[i].a)) && addr_parse(&b, slice_of(rows[i].b)));
		cr_expect_eq(addr_overlaps(&a, &b), rows[i].overlap, "%s %s", rows[i].a, rows[i].b);
		cr_expect_eq(addr_overlaps(&b, &a), rows[i].overlap, "%s %s", rows[i].b, rows[i].a);
	}
}
