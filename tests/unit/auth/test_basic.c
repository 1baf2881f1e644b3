/* Proxy-Authorization: what is taken, what is refused, and that nothing stays behind after a refusal. */
#include "adit/auth/auth.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct row {
	const char *field, *user, *password; /* user NULL: refused */
};

static const struct row rows[] = {
	{ "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin", "open sesame" }, /* RFC 7617 2 */
	{ "Basic dGVzdDoxMjPCow==", "test", "123\xc2\xa3" }, /* RFC 7617 2.1 */
	{ "basic YTpi", "a", "b" },
	{ "BASIC   YTpi", "a", "b" },
	{ " \tBasic YTpi \t", "a", "b" },
	{ "Basic YTo=", "a", "" },
	{ "Basic YTpiOmM=", "a", "b:c" },
	{ "Basic YSBiOmM=", "a b", "c" },
	{ "Basic fn5+Oj8/Pw==", "~~~", "???" },
	{ "Basic fn9+Oj8/Pw==", NULL, NULL }, /* DEL in the name */
	{ "", NULL, NULL },
	{ "Basic", NULL, NULL },
	{ "Basic ", NULL, NULL },
	{ "BasicYTpi", NULL, NULL },
	{ "Basic\tYTpi", NULL, NULL },
	{ "Bearer YTpi", NULL, NULL },
	{ "Digest username=\"a\"", NULL, NULL },
	{ "Basic YTo", NULL, NULL }, /* padding left out */
	{ "Basic YTo==", NULL, NULL },
	{ "Basic YTpi=", NULL, NULL },
	{ "Basic YTpi====", NULL, NULL },
	{ "Basic YT==pi==", NULL, NULL }, /* padding inside */
	{ "Basic Y=pi", NULL, NULL },
	{ "Basic ====", NULL, NULL },
	{ "Basic YTr=", NULL, NULL }, /* bits set that carry nothing */
	{ "Basic YTpiYTpiYx==", NULL, NULL },
	{ "Basic YTp-", NULL, NULL }, /* URL alphabet */
	{ "Basic YTp_", NULL, NULL },
	{ "Basic YT pi", NULL, NULL },
	{ "Basic YTpi YTpi", NULL, NULL },
	{ "Basic YTpi, Basic YTpi", NULL, NULL },
	{ "Basic YTp\xc3", NULL, NULL },
	{ "Basic YWI=", NULL, NULL }, /* no colon */
	{ "Basic OmI=", NULL, NULL }, /* empty user */
	{ "Basic YQA6Yg==", NULL, NULL }, /* NUL in the user */
	{ "Basic YTpiAGM=", NULL, NULL }, /* NUL in the password */
	{ "Basic YQo6Yg==", NULL, NULL }, /* LF in the user */
	{ "Basic YTpiCQ==", NULL, NULL }, /* TAB in the password */
};

static bool is_wiped(const void *p, size_t n)
{
	const unsigned char *bytes = p;

	for (size_t i = 0; i < n; i++)
		if (bytes[i] != 0)
			return false;
	return true;
}

Test(basic, table)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		size_t n = strlen(row->field);
		char *field = malloc(n + 1); /* its own block: the sanitizer sees a byte read too far */
		struct credentials c;
		enum reason got;

		memset(&c, 'x', sizeof(c));
		memcpy(field, row->field, n);
		got = basic_decode((struct slice){ field, n }, &c);
		free(field);
		if (!row->user) {
			cr_expect_eq(got, REASON_AUTH_MALFORMED, "row %zu: %s", i, row->field);
			cr_expect(is_wiped(&c, sizeof(c)), "row %zu", i);
			continue;
		}
		cr_expect_eq(got, REASON_OK, "row %zu: %s", i, row->field);
		cr_expect_str_eq(c.user, row->user);
		cr_expect_str_eq(c.password, row->password);
		cr_expect_eq(c.user_n, strlen(row->user));
		cr_expect_eq(c.password_n, strlen(row->password));
		credentials_burn(&c);
		cr_expect(is_wiped(&c, sizeof(c)));
	}
}

static enum reason decode_pair(size_t user_n, size_t password_n, struct credentials *c)
{
	static char plain[65536], field[90000];
	int n;

	memset(plain, 'u', user_n);
	plain[user_n] = ':';
	memset(plain + user_n + 1, 'p', password_n);
	memcpy(field, "Basic ", 6);
	n = EVP_EncodeBlock((unsigned char *)field + 6, (unsigned char *)plain, (int)(user_n + 1 + password_n));
	return basic_decode((struct slice){ field, 6 + (size_t)n }, c);
}

Test(basic, lengths)
{
	struct credentials c;

	cr_expect_eq(decode_pair(255, 512, &c), REASON_OK);
	cr_expect_eq(c.user_n, 255);
	cr_expect_eq(c.password_n, 512);
	cr_expect_eq(strlen(c.password), 512);
	cr_expect_eq(decode_pair(256, 1, &c), REASON_AUTH_MALFORMED);
	cr_expect_eq(decode_pair(40000, 1, &c), REASON_AUTH_MALFORMED);
	for (size_t n = 513; n < 60000; n = n * 3 / 2) { /* stays visibly overlong */
		cr_expect_eq(decode_pair(1, n, &c), REASON_OK);
		cr_expect_eq(c.password_n, 513);
		cr_expect_eq(strlen(c.password), 513);
	}
}

/* Every byte at every place of a group: in the alphabet or refused. */
Test(basic, alphabet)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (int byte = 1; byte < 256; byte++) {
		bool valid = strchr(alphabet, byte) != NULL;

		for (size_t at = 0; at < 4; at++) {
			char field[] = "Basic YTpiZmZmZmZm"; /* "a:b" and two groups */
			struct credentials c;
			enum reason got;

			field[10 + at] = (char)byte;
			got = basic_decode(slice_of(field), &c);
			cr_expect(valid || got == REASON_AUTH_MALFORMED, "byte %d at %zu", byte, at);
			if (got == REASON_OK) {
				unsigned char back[16];
				int n = EVP_EncodeBlock(back, (unsigned char *)c.password + 1, 3);

				cr_expect(c.password_n == 7 && n == 4 && memcmp(back, field + 10, 4) == 0, "byte %d at %zu", byte, at);
			}
		}
	}
}
