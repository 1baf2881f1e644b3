/* Socket addresses, prefixes and CIDRs.
 *
 * Everything that decides about an address must see one form of it, so IPv4-mapped IPv6 is undone wherever an address
 * comes in, and blocks are compared in the 16 byte form. The trap in that form: ::/0 would cover the mapped IPv4 range
 * too, and a rule for "all of IPv6" would silently be one for everything. So a block has a family. */
#include "adit/base/addr.h"
#include "adit/base/obj.h"

#include <arpa/inet.h>
#include <stdio.h>

static const uint8_t MAPPED[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
enum { MAPPED_BITS = 96 };

static void set_v4(struct addr *out, const uint8_t bytes[static 4], uint16_t port_be)
{
	*out = (struct addr){ .len = sizeof(out->in) };
	out->in.sin_family = AF_INET;
	out->in.sin_port = port_be;
	memcpy(&out->in.sin_addr, bytes, 4);
}

static void set_v6(struct addr *out, const uint8_t bytes[static 16], uint16_t port_be, uint32_t scope)
{
	if (memcmp(bytes, MAPPED, sizeof(MAPPED)) == 0) {
		set_v4(out, bytes + sizeof(MAPPED), port_be);
		return;
	}
	*out = (struct addr){ .len = sizeof(out->in6) };
	out->in6.sin6_family = AF_INET6;
	out->in6.sin6_port = port_be;
	out->in6.sin6_scope_id = scope;
	memcpy(&out->in6.sin6_addr, bytes, 16);
}

bool addr_from_sockaddr(struct addr *out, const struct sockaddr *sa, socklen_t len)
{
	sa_family_t family;

	*out = (struct addr){ .len = 0 };
	if (!sa || (size_t)len < offsetof(struct sockaddr, sa_family) + sizeof(family))
		return false;
	memcpy(&family, (const char *)sa + offsetof(struct sockaddr, sa_family), sizeof(family));
	if (family == AF_INET && (size_t)len >= sizeof(struct sockaddr_in)) {
		struct sockaddr_in in;
		uint8_t bytes[4];

		memcpy(&in, sa, sizeof(in)); /* the caller's bytes need not be aligned */
		memcpy(bytes, &in.sin_addr, sizeof(bytes));
		set_v4(out, bytes, in.sin_port);
		return true;
	}
	if (family == AF_INET6 && (size_t)len >= sizeof(struct sockaddr_in6)) {
		struct sockaddr_in6 in6;

		memcpy(&in6, sa, sizeof(in6));
		set_v6(out, in6.sin6_addr.s6_addr, in6.sin6_port, in6.sin6_scope_id);
		return true;
	}
	return false;
}

/* Four decimal numbers without leading zeros and nothing else. Own code, for C libraries differ in what they take. */
static bool quad_parse(struct slice text, uint8_t out[static 4])
{
	size_t at = 0;

	for (int part = 0; part < 4; part++) {
		unsigned value = 0;
		size_t digits = 0;

		if (part > 0 && (at >= text.n || text.p[at++] != '.'))
			return false;
		for (; at < text.n && text.p[at] >= '0' && text.p[at] <= '9'; at++, digits++) {
			if (digits > 0 && value == 0)
				return false;
			value = value * 10 + (unsigned)(text.p[at] - '0');
			if (value > 255)
				return false;
		}
		if (digits == 0)
			return false;
		out[part] = (uint8_t)value;
	}
	return at == text.n;
}

static bool v6_parse(struct slice text, uint8_t out[static 16])
{
	char copy[INET6_ADDRSTRLEN];
	struct in6_addr in6;
	const char *last_colon;

	if (text.n < 2 || text.n >= sizeof(copy))
		return false;
	memcpy(copy, text.p, text.n);
	copy[text.n] = '\0';
	if (strlen(copy) != text.n || inet_pton(AF_INET6, copy, &in6) != 1)
		return false;
	/* An embedded dotted quad obeys the rule for dotted quads. */
	last_colon = strrchr(copy, ':');
	if (last_colon && strchr(last_colon, '.')) {
		uint8_t quad[4];

		if (!quad_parse(slice_of(last_colon + 1), quad))
			return false;
	}
	memcpy(out, in6.s6_addr, 16);
	return true;
}

bool addr_from_literal(struct addr *out, struct slice text, uint16_t port)
{
	uint8_t bytes[16];

	*out = (struct addr){ .len = 0 };
	if (quad_parse(text, bytes)) {
		set_v4(out, bytes, htons(port));
		return true;
	}
	if (v6_parse(text, bytes)) {
		set_v6(out, bytes, htons(port), 0);
		return true;
	}
	return false;
}

bool addr_parse(struct addr *out, struct slice text)
{
	struct slice host, digits;
	unsigned long long port;
	bool bracketed = text.n > 0 && text.p[0] == '[';
	size_t colon = text.n;

	*out = (struct addr){ .len = 0 };
	while (colon > 0 && text.p[colon - 1] != ':')
		colon--;
	if (colon == 0)
		return false;
	host = (struct slice){ text.p, colon - 1 };
	digits = (struct slice){ text.p + colon, text.n - colon };
	if (digits.n > 1 && digits.p[0] == '0')
		return false;
	if (!slice_to_u64(digits, UINT16_MAX, &port))
		return false;
	if (bracketed) {
		if (host.n < 2 || host.p[host.n - 1] != ']')
			return false;
		host = (struct slice){ host.p + 1, host.n - 2 };
	}
	/* Brackets are IPv6's, and IPv6 needs them. */
	if (bracketed != (host.n > 0 && memchr(host.p, ':', host.n) != NULL))
		return false;
	return addr_from_literal(out, host, (uint16_t)port);
}

uint16_t addr_port(const struct addr *a)
{
	if (a->len == 0)
		return 0;
	return ntohs(a->sa.sa_family == AF_INET ? a->in.sin_port : a->in6.sin6_port);
}

void addr_set_port(struct addr *a, uint16_t port)
{
	ADIT_ASSERT(a->len != 0);
	if (a->sa.sa_family == AF_INET)
		a->in.sin_port = htons(port);
	else
		a->in6.sin6_port = htons(port);
}

bool addr_same_host(const struct addr *a, const struct addr *b)
{
	uint8_t left[16], right[16];

	if (a->len == 0 || b->len == 0)
		return a->len == b->len;
	if (a->sa.sa_family != b->sa.sa_family)
		return false;
	if (a->sa.sa_family == AF_INET6 && a->in6.sin6_scope_id != b->in6.sin6_scope_id)
		return false;
	addr_bytes(a, left);
	addr_bytes(b, right);
	return memcmp(left, right, sizeof(left)) == 0;
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
	return addr_same_host(a, b) && addr_port(a) == addr_port(b);
}

const char *addr_host_text(const struct addr *a, char buf[static ADDR_TEXT_SIZE])
{
	const void *bytes = a->sa.sa_family == AF_INET ? (const void *)&a->in.sin_addr : (const void *)&a->in6.sin6_addr;

	if (a->len == 0 || !inet_ntop(a->sa.sa_family, bytes, buf, ADDR_TEXT_SIZE))
		snprintf(buf, ADDR_TEXT_SIZE, "-");
	return buf;
}

static bool is_wildcard_for(const struct addr *wildcard, const struct addr *a)
{
	if (wildcard->sa.sa_family == AF_INET)
		return wildcard->in.sin_addr.s_addr == htonl(INADDR_ANY) && a->sa.sa_family == AF_INET;
	return IN6_IS_ADDR_UNSPECIFIED(&wildcard->in6.sin6_addr);
}

bool addr_overlaps(const struct addr *a, const struct addr *b)
{
	if (addr_port(a) == 0 || addr_port(a) != addr_port(b))
		return false;
	return addr_same_host(a, b) || is_wildcard_for(a, b) || is_wildcard_for(b, a);
}

const char *addr_text(const struct addr *a, char buf[static ADDR_TEXT_SIZE])
{
	char host[ADDR_TEXT_SIZE];

	addr_host_text(a, host);
	if (a->len == 0)
		snprintf(buf, ADDR_TEXT_SIZE, "-");
	else if (a->sa.sa_family == AF_INET)
		snprintf(buf, ADDR_TEXT_SIZE, "%.15s:%u", host, addr_port(a));
	else
		snprintf(buf, ADDR_TEXT_SIZE, "[%.45s]:%u", host, addr_port(a));
	return buf;
}

void addr_bytes(const struct addr *a, uint8_t out[static 16])
{
	memset(out, 0, 16);
	if (a->len == 0)
		return;
	if (a->sa.sa_family == AF_INET) {
		memcpy(out, MAPPED, sizeof(MAPPED));
		memcpy(out + sizeof(MAPPED), &a->in.sin_addr, 4);
	} else {
		memcpy(out, &a->in6.sin6_addr, 16);
	}
}

/* Clears all but the first `bits`; true when some of the cleared ones were set. */
static bool mask_bytes(uint8_t bytes[static 16], unsigned bits)
{
	bool cleared = false;

	for (unsigned i = 0; i < 16; i++) {
		unsigned keep = bits >= (i + 1) * 8 ? 8 : bits <= i * 8 ? 0 : bits - i * 8;
		uint8_t rest = (uint8_t)(0xff >> keep);

		cleared |= (bytes[i] & rest) != 0;
		bytes[i] = (uint8_t)(bytes[i] & ~rest);
	}
	return cleared;
}

static bool cidr_is_v4(const struct cidr *c)
{
	return c->bits >= MAPPED_BITS && memcmp(c->bytes, MAPPED, sizeof(MAPPED)) == 0;
}

static bool prefix_equal(const uint8_t a[static 16], const uint8_t b[static 16], unsigned bits)
{
	unsigned whole = bits / 8, rest = bits % 8;

	if (memcmp(a, b, whole) != 0)
		return false;
	return rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0;
}

bool cidr_parse(struct cidr *out, struct slice text, bool *host_bits)
{
	const char *slash = text.n > 0 ? memchr(text.p, '/', text.n) : NULL;
	struct slice address = { text.p, slash ? (size_t)(slash - text.p) : text.n };
	unsigned long long bits;
	unsigned width;

	*out = (struct cidr){ .bits = 0 };
	if (host_bits)
		*host_bits = false;
	if (quad_parse(address, out->bytes + sizeof(MAPPED))) {
		memcpy(out->bytes, MAPPED, sizeof(MAPPED));
		width = 32;
	} else if (v6_parse(address, out->bytes)) {
		width = 128;
	} else {
		return false;
	}
	bits = width;
	if (slash) {
		struct slice digits = { slash + 1, text.n - address.n - 1 };

		if ((digits.n > 1 && digits.p[0] == '0') || !slice_to_u64(digits, width, &bits))
			return false;
	}
	out->bits = (uint8_t)(bits + (128 - width));
	if (mask_bytes(out->bytes, out->bits)) {
		if (host_bits)
			*host_bits = true;
		return false;
	}
	return true;
}

bool cidr_contains(const struct cidr *c, const struct addr *a)
{
	uint8_t bytes[16];

	if (a->len == 0 || cidr_is_v4(c) != (a->sa.sa_family == AF_INET))
		return false;
	addr_bytes(a, bytes);
	return prefix_equal(bytes, c->bytes, c->bits);
}

bool cidr_within(const struct cidr *inner, const struct cidr *outer)
{
	return cidr_is_v4(inner) == cidr_is_v4(outer) && inner->bits >= outer->bits &&
	       prefix_equal(inner->bytes, outer->bytes, outer->bits);
}

const char *cidr_text(const struct cidr *c, char buf[static ADDR_TEXT_SIZE])
{
	char host[INET6_ADDRSTRLEN] = "-";
	bool v4 = cidr_is_v4(c);

	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? c->bytes + sizeof(MAPPED) : c->bytes, host, sizeof(host));
	snprintf(buf, ADDR_TEXT_SIZE, "%s/%u", host, v4 ? c->bits - (unsigned)MAPPED_BITS : c->bits);
	return buf;
}

struct cidr addr_prefix(const struct addr *a, unsigned v4_bits, unsigned v6_bits)
{
	struct cidr prefix = { .bits = 0 };

	ADIT_ASSERT(v4_bits <= 32 && v6_bits <= 128);
	if (a->len == 0)
		return prefix;
	addr_bytes(a, prefix.bytes);
	prefix.bits = (uint8_t)(a->sa.sa_family == AF_INET ? MAPPED_BITS + v4_bits : v6_bits);
	mask_bytes(prefix.bytes, prefix.bits);
	return prefix;
}
