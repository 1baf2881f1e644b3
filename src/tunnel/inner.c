/* Inner record borders. */
#include "tunnel/inner.h"

enum { BODY_MAX_BYTES = 16384 + 2048 }; /* TLS 1.2's allowance, the larger one */

/* change_cipher_spec to application_data, version 3.x, a length that can be */
static bool looks_like_tls(const unsigned char *header, size_t n)
{
	if (n > 0 && (header[0] < 20 || header[0] > 23))
		return false;
	if (n > 1 && header[1] != 3)
		return false;
	return n < INNER_HEADER_BYTES || ((size_t)header[3] << 8 | header[4]) <= BODY_MAX_BYTES;
}

size_t inner_last(struct inner *in, const char *p, size_t n)
{
	size_t begin = 0, last = 0, at = 0;

	while (at < n && !in->over) {
		size_t body = n - at < in->body_left ? n - at : in->body_left;

		if (body > 0) {
			at += body;
			in->body_left -= body;
		} else {
			if (in->header_n == 0)
				begin = at;
			in->header[in->header_n++] = (unsigned char)p[at++];
			in->over = !looks_like_tls(in->header, in->header_n);
			if (in->header_n < INNER_HEADER_BYTES)
				continue;
			in->body_left = (size_t)in->header[3] << 8 | in->header[4];
			in->header_n = 0;
		}
		if (in->body_left == 0)
			last = begin;
	}
	return in->over ? 0 : last;
}
