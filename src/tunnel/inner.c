/* Inner record borders. */
#include "tunnel/inner.h"

enum { INNER_BODY_MAX = 16384 + 2048 }; /* TLS 1.2's allowance, the larger one */

/* change_cipher_spec to application_data, version 3.x, a length that can be */
static bool looks_like_tls(const unsigned char *header, size_t n)
{
	if (n > 0 && (header[0] < 20 || header[0] > 23))
		return false;
	if (n > 1 && header[1] != 3)
		return false;
	return n < INNER_HEADER || ((size_t)header[3] << 8 | header[4]) <= INNER_BODY_MAX;
}

size_t inner_next(struct inner *in, const char *p, size_t n)
{
	size_t take = 0;

	if (!in->over && in->seen >= INNER_BYTES && in->body_left == 0 && in->header_n == 0)
		in->over = true;
	if (in->over)
		return n;
	while (in->body_left == 0 && take < n) {
		in->header[in->header_n++] = (unsigned char)p[take++];
		if (!looks_like_tls(in->header, in->header_n)) {
			in->over = true;
			return n;
		}
		if (in->header_n < INNER_HEADER)
			continue;
		in->header_n = 0;
		in->body_left = (size_t)in->header[3] << 8 | in->header[4];
		if (in->body_left == 0) {
			in->seen += take;
			return take; /* an empty record is one, too */
		}
	}
	if (in->body_left > 0) {
		size_t body = n - take < in->body_left ? n - take : in->body_left;

		in->body_left -= body;
		take += body;
	}
	in->seen += take;
	return take;
}
