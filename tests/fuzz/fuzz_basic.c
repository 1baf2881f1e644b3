/* Proxy-Authorization: what is accepted encodes back to the very text that came in; what is refused leaves nothing. */
#include "adit/auth/auth.h"

#include <openssl/evp.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

static void check_accepted(struct slice field, const struct credentials *c)
{
	unsigned char plain[CREDENTIALS_USER_MAX + 1 + CREDENTIALS_PASSWORD_MAX + 1], text[2 * sizeof(plain)];
	struct slice value = slice_trim(field);
	size_t n = 0, text_n;

	must(c->user_n > 0 && c->user_n <= CREDENTIALS_USER_MAX && c->password_n <= CREDENTIALS_PASSWORD_MAX + 1);
	must(strlen(c->user) == c->user_n && strlen(c->password) == c->password_n && !strchr(c->user, ':'));
	for (size_t i = 0; i < c->user_n; i++)
		must((unsigned char)c->user[i] >= 0x20 && c->user[i] != 0x7f);
	for (size_t i = 0; i < c->password_n; i++)
		must((unsigned char)c->password[i] >= 0x20 && c->password[i] != 0x7f);
	if (c->password_n > CREDENTIALS_PASSWORD_MAX)
		return; /* cut: can not be encoded back */
	memcpy(plain, c->user, c->user_n);
	n = c->user_n;
	plain[n++] = ':';
	memcpy(plain + n, c->password, c->password_n);
	n += c->password_n;
	text_n = (size_t)EVP_EncodeBlock(text, plain, (int)n);
	must(value.n >= text_n && memcmp(value.p + value.n - text_n, text, text_n) == 0);
	must(value.n - text_n >= 6 && value.p[value.n - text_n - 1] == ' ');
	must(slice_ieq((struct slice){ value.p, 5 }, slice_of("basic")));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice field = { (const char *)data, size };
	struct credentials c;
	enum reason got;

	memset(&c, 0x55, sizeof(c));
	got = basic_decode(field, &c);
	must(got == REASON_OK || got == REASON_AUTH_MALFORMED);
	if (got == REASON_OK)
		check_accepted(field, &c);
	credentials_burn(&c);
	must(basic_decode(field, &c) == got);
	if (got != REASON_OK)
		for (size_t i = 0; i < sizeof(c); i++)
			must(((const unsigned char *)&c)[i] == 0);
	return 0;
}
