/* host:port of a request and hosts in rules: text in, typed value out.
 *
 * What is hard: nothing behind this file may see two spellings of one destination. Resolvers read "127.1",
 * "0x7f.0.0.1" and "017700000001" as addresses while a rule sees a name, so whatever ends in a number is a canonical
 * dotted quad or refused. */
#include "adit/base/authority.h"

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f');
}

/* Of lower-cased text: all digits, or 0x and hex digits, perhaps none ("0x" is 0 to a resolver). */
static bool label_is_number(const char *label, size_t n)
{
	size_t digits = 0, hex = 2;

	while (digits < n && is_digit(label[digits]))
		digits++;
	if (digits == n)
		return true;
	if (n < 2 || label[0] != '0' || label[1] != 'x')
		return false;
	while (hex < n && is_hex(label[hex]))
		hex++;
	return hex == n;
}

static enum reason address_into(struct host *out)
{
	char text[ADDR_TEXT_SIZE];

	out->kind = HOST_IS_ADDRESS;
	addr_host_text(&out->addr, text);
	memcpy(out->text, text, strlen(text) + 1);
	return REASON_OK;
}

static enum reason bracketed_parse(struct slice text, struct host *out)
{
	struct slice inside;

	if (text.n < 2 || text.p[text.n - 1] != ']')
		return REASON_BAD_HOST;
	inside = (struct slice){ text.p + 1, text.n - 2 };
	if (inside.n == 0 || !memchr(inside.p, ':', inside.n) || !addr_from_literal(&out->addr, inside, 0))
		return REASON_BAD_HOST;
	return address_into(out);
}

enum reason host_parse(struct slice text, struct host *out)
{
	size_t label = 0; /* where the label at hand begins */

	*out = (struct host){ .kind = HOST_IS_NAME };
	if (text.n > 0 && text.p[0] == '[')
		return bracketed_parse(text, out);
	if (text.n > 0 && text.p[text.n - 1] == '.')
		text.n--;
	if (text.n == 0 || text.n > HOST_TEXT_MAX)
		return REASON_BAD_HOST;
	for (size_t i = 0; i < text.n; i++) {
		char c = text.p[i];

		if (c >= 'A' && c <= 'Z')
			c = (char)(c - 'A' + 'a');
		out->text[i] = c;
		if (c == '.') {
			if (i == label || out->text[i - 1] == '-')
				return REASON_BAD_HOST;
			label = i + 1;
		} else if (!is_digit(c) && !(c >= 'a' && c <= 'z') && c != '_' && (c != '-' || i == label)) {
			return REASON_BAD_HOST;
		} else if (i - label >= HOST_LABEL_MAX) {
			return REASON_BAD_HOST;
		}
	}
	if (label == text.n || out->text[text.n - 1] == '-')
		return REASON_BAD_HOST;
	if (!label_is_number(out->text + label, text.n - label))
		return REASON_OK;
	if (!addr_from_literal(&out->addr, (struct slice){ out->text, text.n }, 0))
		return REASON_BAD_HOST;
	return address_into(out);
}

static enum reason port_parse(struct slice digits, uint16_t *out)
{
	unsigned long long port;

	if (digits.n == 0 || digits.p[0] == '0' || !slice_to_u64(digits, UINT16_MAX, &port))
		return REASON_BAD_PORT;
	*out = (uint16_t)port;
	return REASON_OK;
}

/* How many of the first bytes are the host; text.n when no port follows. The last colon is the port's, so that an
 * IPv6 address without brackets is called a bad host. */
static size_t host_length(struct slice text)
{
	size_t from = 0, colon = text.n;

	if (text.n > 0 && text.p[0] == '[') {
		const char *close = memchr(text.p, ']', text.n);

		from = close ? (size_t)(close - text.p) + 1 : text.n;
		return from;
	}
	while (colon > from && text.p[colon - 1] != ':')
		colon--;
	return colon > from ? colon - 1 : text.n;
}

enum reason authority_parse_default(struct slice text, uint16_t default_port, struct authority *out)
{
	struct slice host, rest;
	enum reason why;

	*out = (struct authority){ .port = default_port };
	if (text.n == 0)
		return REASON_BAD_AUTHORITY;
	for (size_t i = 0; i < text.n; i++)
		if (memchr("@/?#", text.p[i], 4))
			return REASON_BAD_AUTHORITY;
	host = (struct slice){ text.p, host_length(text) };
	rest = (struct slice){ text.p + host.n, text.n - host.n };
	if (rest.n == 0 ? default_port == 0 : rest.p[0] != ':')
		return REASON_BAD_AUTHORITY;
	why = host_parse(host, &out->host);
	if (why == REASON_OK && rest.n > 0)
		why = port_parse((struct slice){ rest.p + 1, rest.n - 1 }, &out->port);
	return why;
}

enum reason authority_parse(struct slice text, struct authority *out)
{
	return authority_parse_default(text, 0, out);
}
