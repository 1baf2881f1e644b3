/* host:port: the tables are the specification. */
#include "adit/base/authority.h"

#include <criterion/criterion.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))
#define TEN "abcdefghij"
#define SIXTY TEN TEN TEN TEN TEN TEN
#define LABEL63 SIXTY "abc"
#define NAME253 LABEL63 "." LABEL63 "." LABEL63 "." SIXTY "a"

struct row {
	const char *in;
	enum reason why;
	enum host_kind kind;
	const char *text;
};

static const struct row HOSTS[] = {
	{ "example.org", REASON_OK, HOST_IS_NAME, "example.org" },
	{ "EXAMPLE.Org", REASON_OK, HOST_IS_NAME, "example.org" },
	{ "example.org.", REASON_OK, HOST_IS_NAME, "example.org" },
	{ "localhost", REASON_OK, HOST_IS_NAME, "localhost" },
	{ "a", REASON_OK, HOST_IS_NAME, "a" },
	{ "_dmarc.example.org", REASON_OK, HOST_IS_NAME, "_dmarc.example.org" },
	{ "a_b._", REASON_OK, HOST_IS_NAME, "a_b._" },
	{ "xn--bcher-kva.example", REASON_OK, HOST_IS_NAME, "xn--bcher-kva.example" },
	{ "1e100.net", REASON_OK, HOST_IS_NAME, "1e100.net" },
	{ "1.2.3.4.example", REASON_OK, HOST_IS_NAME, "1.2.3.4.example" },
	{ "0x7f.example", REASON_OK, HOST_IS_NAME, "0x7f.example" },
	{ "host.0xg", REASON_OK, HOST_IS_NAME, "host.0xg" },
	{ "host.1a", REASON_OK, HOST_IS_NAME, "host.1a" },
	{ "host.00x1", REASON_OK, HOST_IS_NAME, "host.00x1" },
	{ LABEL63 ".org", REASON_OK, HOST_IS_NAME, LABEL63 ".org" },
	{ NAME253, REASON_OK, HOST_IS_NAME, NAME253 },
	{ NAME253 ".", REASON_OK, HOST_IS_NAME, NAME253 },

	{ "127.0.0.1", REASON_OK, HOST_IS_ADDRESS, "127.0.0.1" },
	{ "127.0.0.1.", REASON_OK, HOST_IS_ADDRESS, "127.0.0.1" },
	{ "[::1]", REASON_OK, HOST_IS_ADDRESS, "::1" },
	{ "[2001:DB8::0:1]", REASON_OK, HOST_IS_ADDRESS, "2001:db8::1" },
	{ "[::ffff:1.2.3.4]", REASON_OK, HOST_IS_ADDRESS, "1.2.3.4" },
	{ "[::ffff:102:304]", REASON_OK, HOST_IS_ADDRESS, "1.2.3.4" },

	{ "", REASON_BAD_HOST, 0, NULL },
	{ ".", REASON_BAD_HOST, 0, NULL },
	{ "..", REASON_BAD_HOST, 0, NULL },
	{ ".example.org", REASON_BAD_HOST, 0, NULL },
	{ "example..org", REASON_BAD_HOST, 0, NULL },
	{ "example.org..", REASON_BAD_HOST, 0, NULL },
	{ "-example.org", REASON_BAD_HOST, 0, NULL },
	{ "example-.org", REASON_BAD_HOST, 0, NULL },
	{ "example.-org", REASON_BAD_HOST, 0, NULL },
	{ "example.org-", REASON_BAD_HOST, 0, NULL },
	{ "example.org-.", REASON_BAD_HOST, 0, NULL },
	{ "-", REASON_BAD_HOST, 0, NULL },
	{ LABEL63 "d.org", REASON_BAD_HOST, 0, NULL },
	{ "org." LABEL63 "d", REASON_BAD_HOST, 0, NULL },
	{ NAME253 "b", REASON_BAD_HOST, 0, NULL },
	{ NAME253 "b.", REASON_BAD_HOST, 0, NULL },
	{ "exa mple.org", REASON_BAD_HOST, 0, NULL },
	{ "example.org ", REASON_BAD_HOST, 0, NULL },
	{ "example%2eorg", REASON_BAD_HOST, 0, NULL },
	{ "b\xc3\xbc" "cher.example", REASON_BAD_HOST, 0, NULL },
	{ "example\xe3\x80\x82org", REASON_BAD_HOST, 0, NULL },
	{ "*.example.org", REASON_BAD_HOST, 0, NULL },
	{ "user@example.org", REASON_BAD_HOST, 0, NULL },
	{ "example.org/", REASON_BAD_HOST, 0, NULL },
	{ "example.org\t", REASON_BAD_HOST, 0, NULL },
	{ "example.org:", REASON_BAD_HOST, 0, NULL },
	{ "::1", REASON_BAD_HOST, 0, NULL },

	/* What some resolvers take for an address and a rule would take for a name. */
	{ "1.2.3", REASON_BAD_HOST, 0, NULL },
	{ "127.1", REASON_BAD_HOST, 0, NULL },
	{ "2130706433", REASON_BAD_HOST, 0, NULL },
	{ "0x7f000001", REASON_BAD_HOST, 0, NULL },
	{ "0X7F000001", REASON_BAD_HOST, 0, NULL },
	{ "0x", REASON_BAD_HOST, 0, NULL },
	{ "017700000001", REASON_BAD_HOST, 0, NULL },
	{ "0177.0.0.1", REASON_BAD_HOST, 0, NULL },
	{ "127.0.0.01", REASON_BAD_HOST, 0, NULL },
	{ "127.0.0.0x1", REASON_BAD_HOST, 0, NULL },
	{ "0x7f.0.0.1", REASON_BAD_HOST, 0, NULL },
	{ "127.0.0.256", REASON_BAD_HOST, 0, NULL },
	{ "1.2.3.4.5", REASON_BAD_HOST, 0, NULL },
	{ "1.2.3.4..", REASON_BAD_HOST, 0, NULL },
	{ "example.123", REASON_BAD_HOST, 0, NULL },
	{ "example.0x1f", REASON_BAD_HOST, 0, NULL },
	{ "example.0x", REASON_BAD_HOST, 0, NULL },
	{ "0", REASON_BAD_HOST, 0, NULL },

	{ "[", REASON_BAD_HOST, 0, NULL },
	{ "[]", REASON_BAD_HOST, 0, NULL },
	{ "[::1", REASON_BAD_HOST, 0, NULL },
	{ "[::1]x", REASON_BAD_HOST, 0, NULL },
	{ "[::1].", REASON_BAD_HOST, 0, NULL },
	{ "[[::1]]", REASON_BAD_HOST, 0, NULL },
	{ "[127.0.0.1]", REASON_BAD_HOST, 0, NULL },
	{ "[example.org]", REASON_BAD_HOST, 0, NULL },
	{ "[fe80::1%eth0]", REASON_BAD_HOST, 0, NULL },
	{ "[fe80::1%25eth0]", REASON_BAD_HOST, 0, NULL },
	{ "[v1.fe80::a]", REASON_BAD_HOST, 0, NULL },
	{ "[::ffff:1.2.3.04]", REASON_BAD_HOST, 0, NULL },
	{ "[::1/128]", REASON_BAD_HOST, 0, NULL },
};

Test(authority, hosts)
{
	for (size_t i = 0; i < COUNT(HOSTS); i++) {
		const struct row *row = &HOSTS[i];
		struct host host;

		cr_expect_eq(host_parse(slice_of(row->in), &host), row->why, "'%s'", row->in);
		if (row->why != REASON_OK)
			continue;
		cr_expect_eq(host.kind, row->kind, "'%s'", row->in);
		cr_expect_str_eq(host.text, row->text);
		cr_expect_eq(host.addr.len != 0, row->kind == HOST_IS_ADDRESS);
		cr_expect_eq(addr_port(&host.addr), 0);
	}
}

Test(authority, every_byte)
{
	/* Of all bytes only letters, digits, '_', '-' and '.' can stand inside a name. */
	for (int c = 0; c < 256; c++) {
		char text[] = { 'a', (char)c, 'b' };
		struct host host;
		bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
			  c == '-' || c == '.';

		cr_expect_eq(host_parse((struct slice){ text, 3 }, &host) == REASON_OK, ok, "byte %d", c);
	}
}

Test(authority, with_port)
{
	static const struct {
		const char *in;
		enum reason why;
		const char *host;
		uint16_t port;
	} rows[] = {
		{ "example.org:443", REASON_OK, "example.org", 443 },
		{ "Example.ORG.:1", REASON_OK, "example.org", 1 },
		{ "10.0.0.1:65535", REASON_OK, "10.0.0.1", 65535 },
		{ "[::1]:80", REASON_OK, "::1", 80 },
		{ "[::ffff:127.0.0.1]:80", REASON_OK, "127.0.0.1", 80 },

		{ "", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "example.org", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "443", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "[::1]", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "[::1]443", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "[::1", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "user@example.org:443", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "user:secret@example.org:443", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "@example.org:443", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "example.org:443/", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "example.org:443?x", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "example.org:443#x", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "http://example.org:443", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "/etc/passwd", REASON_BAD_AUTHORITY, NULL, 0 },
		{ "*", REASON_BAD_AUTHORITY, NULL, 0 },

		{ ":443", REASON_BAD_HOST, NULL, 0 },
		{ "::1:443", REASON_BAD_HOST, NULL, 0 },
		{ "a:b:443", REASON_BAD_HOST, NULL, 0 },
		{ "127.1:443", REASON_BAD_HOST, NULL, 0 },
		{ "[fe80::1%eth0]:443", REASON_BAD_HOST, NULL, 0 },
		{ "ex%61mple.org:443", REASON_BAD_HOST, NULL, 0 },
		{ "b\xc3\xbc" "cher.example:443", REASON_BAD_HOST, NULL, 0 },
		{ "[]:443", REASON_BAD_HOST, NULL, 0 },

		{ "example.org:", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:0", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:0443", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:+443", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:-1", REASON_BAD_PORT, NULL, 0 },
		{ "example.org: 443", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:443 ", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:65536", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:18446744073709551617", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:0x1bb", REASON_BAD_PORT, NULL, 0 },
		{ "example.org:https", REASON_BAD_PORT, NULL, 0 },
		{ "[::1]:", REASON_BAD_PORT, NULL, 0 },
		{ "[::1]::443", REASON_BAD_PORT, NULL, 0 },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct authority a;

		cr_expect_eq(authority_parse(slice_of(rows[i].in), &a), rows[i].why, "'%s'", rows[i].in);
		if (rows[i].why != REASON_OK)
			continue;
		cr_expect_str_eq(a.host.text, rows[i].host);
		cr_expect_eq(a.port, rows[i].port);
	}
	struct authority a;
	cr_expect_eq(authority_parse((struct slice){ NULL, 0 }, &a), REASON_BAD_AUTHORITY);
	cr_expect_eq(authority_parse((struct slice){ "a:80\0", 5 }, &a), REASON_BAD_PORT);
}

Test(authority, optional_port)
{
	static const struct {
		const char *in;
		enum reason why;
		uint16_t port;
	} rows[] = {
		{ "example.org", REASON_OK, 80 },
		{ "example.org:8080", REASON_OK, 8080 },
		{ "[::1]", REASON_OK, 80 },
		{ "[::1]:81", REASON_OK, 81 },
		{ "", REASON_BAD_AUTHORITY, 0 },
		{ "example.org:", REASON_BAD_PORT, 0 },
		{ "[::1]x", REASON_BAD_AUTHORITY, 0 },
		{ "user@example.org", REASON_BAD_AUTHORITY, 0 },
		{ ":80", REASON_BAD_HOST, 0 },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct authority a;

		cr_expect_eq(authority_parse_default(slice_of(rows[i].in), 80, &a), rows[i].why, "'%s'", rows[i].in);
		if (rows[i].why == REASON_OK)
			cr_expect_eq(a.port, rows[i].port);
	}
}
