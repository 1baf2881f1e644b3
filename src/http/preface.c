/* The first bytes of a connection that agreed on h2. Not all that agree on it mean it: Go's transport offers h2 to a
 * proxy, and then writes an HTTP/1.1 CONNECT.
 *
 * The first byte in which they differ from the preface decides, so the answer does not depend on how they are cut. The
 * preface begins with what would be the method PRI, which no HTTP/1 client sends: only a difference within these first
 * letters makes another method. */
#include "adit/http/h2.h"

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
_Static_assert(sizeof(preface) - 1 == H2_PREFACE_BYTES, "RFC 9113 3.4");

enum { METHOD_BYTES = 3 };

/* RFC 9110 5.6.2 */
static bool is_token_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
	       (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

enum h2_preface h2_preface_judge(const char *bytes, size_t n)
{
	size_t same = 0;

	while (same < n && same < H2_PREFACE_BYTES && bytes[same] == preface[same])
		same++;
	if (same == H2_PREFACE_BYTES)
		return H2_PREFACE_H2;
	if (same == n)
		return H2_PREFACE_WAIT;
	if (same <= METHOD_BYTES && (is_token_char(bytes[same]) || (same > 0 && bytes[same] == ' ')))
		return H2_PREFACE_H1;
	return H2_PREFACE_BAD;
}
