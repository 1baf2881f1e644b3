/* The value of Proxy-Authorization, decoded: RFC 7617, strictly.
 *
 * The hard part is what is left behind: the text holds the password, so the decoder has no table that the password
 * would index (caches tell), no buffer but the caller's, and burns that one on every refusal. */
#include "adit/auth/auth.h"

#include "adit/base/mem.h"

/* All ones when low <= c <= high. */
static unsigned in_range(unsigned c, unsigned low, unsigned high)
{
	return 0u - (((low - 1 - c) & (c - high - 1)) >> 31);
}

/* 0-63, or 64 for a byte outside the alphabet; the same instructions for every byte. */
static unsigned sextet(unsigned char c)
{
	unsigned upper = in_range(c, 'A', 'Z'), lower = in_range(c, 'a', 'z'), digit = in_range(c, '0', '9');
	unsigned plus = in_range(c, '+', '+'), slash = in_range(c, '/', '/');
	unsigned value = (upper & (c - 'A')) | (lower & (c - 'a' + 26u)) | (digit & (c - '0' + 52u)) | (plus & 62u) |
			 (slash & 63u);

	return value | (~(upper | lower | digit | plus | slash) & 64u);
}

struct sink {
	struct credentials *to;
	bool colon, refused;
};

static void sink_byte(struct sink *s, unsigned char byte)
{
	struct credentials *c = s->to;

	if (byte < 0x20 || byte == 0x7f) { /* RFC 7617 2: neither part may have control characters */
		s->refused = true;
	} else if (!s->colon && byte == ':') {
		s->colon = true;
	} else if (!s->colon) {
		if (c->user_n == CREDENTIALS_USER_MAX)
			s->refused = true;
		else
			c->user[c->user_n++] = (char)byte;
	} else if (c->password_n <= CREDENTIALS_PASSWORD_MAX) {
		c->password[c->password_n++] = (char)byte;
	}
}

/* Groups of four, padded, the bits that carry nothing zero: one text for one pair of credentials. */
static bool decode(struct slice text, struct sink *sink)
{
	unsigned bad = 0;

	if (text.n == 0 || text.n % 4 != 0)
		return false;
	for (size_t i = 0; i < text.n; i += 4) {
		size_t pad = 0;

		if (i + 4 == text.n && text.p[i + 3] == '=')
			pad = text.p[i + 2] == '=' ? 2 : 1;

		unsigned a = sextet((unsigned char)text.p[i]), b = sextet((unsigned char)text.p[i + 1]);
		unsigned c = pad > 1 ? 0 : sextet((unsigned char)text.p[i + 2]);
		unsigned d = pad > 0 ? 0 : sextet((unsigned char)text.p[i + 3]);

		bad |= (a | b | c | d) & 64u;
		if (pad == 2)
			bad |= b & 0xfu;
		else if (pad == 1)
			bad |= c & 0x3u;
		sink_byte(sink, (unsigned char)(a << 2 | b >> 4));
		if (pad < 2)
			sink_byte(sink, (unsigned char)(b << 4 | c >> 2));
		if (pad < 1)
			sink_byte(sink, (unsigned char)(c << 6 | d));
	}
	return bad == 0;
}

enum reason basic_decode(struct slice field_value, struct credentials *out)
{
	static const struct slice scheme = { "basic", 5 };
	struct slice text = slice_trim(field_value);
	struct sink sink = { .to = out };

	memset(out, 0, sizeof(*out));
	if (text.n <= scheme.n || !slice_ieq((struct slice){ text.p, scheme.n }, scheme) || text.p[scheme.n] != ' ')
		return REASON_AUTH_MALFORMED;
	text.p += scheme.n;
	text.n -= scheme.n;
	while (text.n > 0 && *text.p == ' ') {
		text.p++;
		text.n--;
	}
	if (decode(text, &sink) && sink.colon && !sink.refused && out->user_n > 0)
		return REASON_OK;
	credentials_burn(out);
	return REASON_AUTH_MALFORMED;
}

void credentials_burn(struct credentials *c)
{
	mem_burn(c, sizeof(*c));
}
