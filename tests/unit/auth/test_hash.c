/* Every kind of hash: literal lines made by Apache's htpasswd, OpenSSL and libcrypt; every way a line can be wrong. */
#include "auth/hash_priv.h"

#include "component/failing.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#define SECRET "p\xc3\xa4ssw\xc3\xb6rd secret"

struct vector {
	const char *hash, *password;
	enum hash_kind kind;
	unsigned cost;
};

static const struct vector vectors[] = {
	/* htpasswd -B, -m, -s, -2, -5 */
	{ "$2y$05$h01WjDfGOWADRpqAGgd0kO00gH7bd2CDLHcg2XI2zMQK0r3Sqw/3i", SECRET, HASH_BCRYPT, 5 },
	{ "$2y$04$2NBuKbFxuf6l4psKmxrOYOdv0y/4UXlbeZdYPY86vk4TXbJHeJOOm", "pw", HASH_BCRYPT, 4 },
	{ "$apr1$dklnFclS$Oya50ZBWDOdN2HJ8TOsPa/", SECRET, HASH_APR1, 0 },
	{ "$apr1$MaorZJ3s$04u8SHGxCG9dFLpuE4t4U0", "", HASH_APR1, 0 },
	{ "$apr1$Z5lODAhb$H8kHqAnQvGooQ.WoPry.p0", "a longer password that has more than sixteen bytes", HASH_APR1, 0 },
	{ "$apr1$8iifDQmm$Cky6QmhHh8UYsFU9wSYeR1", "0123456789abcdef", HASH_APR1, 0 },
	{ "{SHA}hQ/ZuWUAEW6FZd0isN3mdFBgW1A=", SECRET, HASH_SHA1, 0 },
	{ "{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "", HASH_SHA1, 0 },
	{ "{SHA}qxNml/j2V32C481Qd+/9XSOxmfo=", "pw4", HASH_SHA1, 0 },
	{ "$5$pPf5hAD8W2JAKIql$HzOxmD8Q01mD/4/iJiFW7EvpTavfbYX3d2/jxejx7g2", SECRET, HASH_SHA256, 5000 },
	{ "$5$rounds=1234$nR12S4z6NLG7IGTW$Eo/KttdAOv/iJ64z91.EKr2CHMX0fWkxtxC0toup1X1", "Tr0ub4dor&3", HASH_SHA256, 1234 },
	{ "$6$Ycmo67W51c.MbqkI$ZA30bde1fIvdcMeaogPQbDmYQpd.4yujejJEW3pUr7XEE7p.b3VH4C5meziAtyKulREwG/FMv5JwVK7wrgmkw/", SECRET,
		HASH_SHA512, 5000 },
	{ "$6$rounds=1000$Sw9LMX4hkROXSamh$"
	  "OWlQO/UGyBaeDAatWSz.HAQtMOb1SZKmBzoeQGfLFL2RBA8Ig71g7weqnn8wxWlvgQBK9HKtoB.RuxHfuMQ89.",
		"pw", HASH_SHA512, 1000 },
	{ "$6$5pSsFyTUBBXjgnVc$XzBVzEVAZW5EAbdqFmzzEhmP2/jtnM1mC6.5FVoeEwvqk2aByRUzL09OaHza99Qzl9U1xPG0UxF6i3Q.45wTf1", "",
		HASH_SHA512, 5000 },
	/* openssl passwd -1 */
	{ "$1$abcdefgh$HTZAXD/gY7P8c9fP0V1lx1", SECRET, HASH_MD5, 0 },
	/* libcrypt */
	{ "$2a$04$abcdefghijklmnopqrstuuOs3nEywvgoAkql3Vdy13NUMn151vIEi", SECRET, HASH_BCRYPT, 4 },
	{ "$2b$04$abcdefghijklmnopqrstuuOs3nEywvgoAkql3Vdy13NUMn151vIEi", SECRET, HASH_BCRYPT, 4 },
	{ "$y$j75$abcdefgh$XbAeaU0q2jYVAG6MDebIexljYnZVaYu10Sj1G072a./", SECRET, HASH_YESCRYPT, 10 },
	{ "$y$j9T$abcdefgh$eGtNWOhRGZnKoBtYE32zqkvELca4sCrFfPsb04Yn1xC", SECRET, HASH_YESCRYPT, 12 },
	{ "$y$j5k.$abcdefgh$hEYpWQFNEuvYcWCsM1A70/LYdPmzu8/wcI1gZTE2J1D", SECRET, HASH_YESCRYPT, 8 }, /* r takes two */
	{ "$6$$j/2ZKRW/h6.iDqG5yDVqMefF/.7htdhGO1XjNVOzgSYKcsB0is5LXE8ClLB0GPDhhh/yZdC5PX0z9RnJMVTFc/", SECRET, HASH_SHA512,
		5000 },
};

static struct user user_of(const char *hash)
{
	struct user user = { 0 };
	const char *fault = hash_recognise(slice_of(hash), &user);

	cr_assert_null(fault, "%s: %s", hash, fault);
	user.hash = (char *)(uintptr_t)hash;
	return user;
}

Test(hash, vectors)
{
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		const struct vector *v = &vectors[i];
		struct user user = user_of(v->hash);
		char other[128];
		size_t n = strlen(v->password);

		cr_expect_eq(user.kind, v->kind, "%s", v->hash);
		cr_expect_eq(user.cost, v->cost, "%s", v->hash);
		cr_expect(hash_verify(&user, v->password, n), "%s", v->hash);
		cr_expect_not(hash_verify(&user, "Wrong", 5), "%s", v->hash);
		memcpy(other, v->password, n);
		other[n] = 'x';
		other[n + 1] = '\0';
		cr_expect_not(hash_verify(&user, other, n + 1), "%s", v->hash);
		if (n > 0) {
			other[n - 1] = '\0';
			cr_expect_not(hash_verify(&user, other, n - 1), "%s", v->hash);
		}
	}
}

Test(hash, bcrypt_looks_at_72_bytes_as_apache_does)
{
	struct user user = user_of("$2y$04$JN12rjEo4eHIq67uTFdNqe13p878l4Ip3JOszGG3U/kq9.QhRDeqG"); /* 80 times x */
	char password[513];

	memset(password, 'x', sizeof(password));
	password[80] = '\0';
	cr_expect(hash_verify(&user, password, 80));
	password[72] = '\0';
	cr_expect(hash_verify(&user, password, 72));
	password[71] = '\0';
	cr_expect_not(hash_verify(&user, password, 71));
}

Test(hash, longer_than_libcrypt_takes_is_wrong)
{
	static char password[513];

	memset(password, 'x', 512);
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		struct user user = user_of(vectors[i].hash);

		cr_expect_eq(hash_check(&user, password, 512), HASH_WRONG, "%s", vectors[i].hash);
	}
}

struct wrong {
	const char *text, *says;
};

#define SALT_HASH "h01WjDfGOWADRpqAGgd0kO00gH7bd2CDLHcg2XI2zMQK0r3Sqw/3i"
#define HASH43 "eGtNWOhRGZnKoBtYE32zqkvELca4sCrFfPsb04Yn1xC"
#define HASH86 "ZA30bde1fIvdcMeaogPQbDmYQpd.4yujejJEW3pUr7XEE7p.b3VH4C5meziAtyKulREwG/FMv5JwVK7wrgmkw/"

static const struct wrong wrongs[] = {
	{ "", "no hash" },
	{ "WVZrlUvPHOmcM", "DES" },
	{ "_J9..CCCCXBrJUJV154M", "DES" },
	{ "WVZrlUvPHO cM", "plain text" },
	{ "_J9..CCCCXBrJUJV154", "plain text" },
	{ "_J9..CCCCXBr UJV154M", "plain text" },
	{ "letmein", "plain text" },
	{ "correct horse battery staple", "plain text" },
	{ "{SSHA}hQ/ZuWUAEW6FZd0isN3mdFBgW1A=", "kind" },
	{ "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$aaaa", "kind" },
	{ "$2x$05$" SALT_HASH, "kind" },
	{ "$7$CU..../....x$" HASH43, "kind" },
	{ "$gy$j9T$abcdefgh$" HASH43, "kind" },
	{ "$2y$05$" SALT_HASH " ", "60" },
	{ "$2y$05$h01WjDfGOWADRpqAGgd0kO00gH7bd2CDLHcg2XI2zMQK0r3Sqw/3", "60" },
	{ "$2y$", "60" },
	{ "$2y$03$" SALT_HASH, "cost" },
	{ "$2y$32$" SALT_HASH, "cost" },
	{ "$2y$5x$" SALT_HASH, "cost" },
	{ "$2y$ 5$" SALT_HASH, "cost" },
	{ "$2y$05." SALT_HASH, "cost" },
	{ "$2y$19$" SALT_HASH, "above 18" },
	{ "$2y$05$h01WjDfGOWADRpqAGgd0kO00gH7bd2CDLHcg2XI2zMQK0r3Sqw/3-", "character" },
	{ "$y$", "yescrypt" },
	{ "$y$j9T$abcdefgh", "yescrypt" },
	{ "$y$j9T$$" HASH43, "yescrypt" },
	{ "$y$j9T$abcdefgh$" HASH43 "x", "yescrypt" },
	{ "$y$j9T$abc-efgh$" HASH43, "yescrypt" },
	{ "$y$j9T", "yescrypt" },
	{ "$y$j9T$abcdefgh$-GtNWOhRGZnKoBtYE32zqkvELca4sCrFfPsb04Yn1xC", "yescrypt" },
	{ "$y$j9T$" HASH86 "x$" HASH43, "yescrypt" },
	{ "$y$jz$abcdefgh$" HASH43, "parameters" },
	{ "$y$j9k$abcdefgh$" HASH43, "parameters" },
	{ "$y$j9k-$abcdefgh$" HASH43, "parameters" },
	{ "$y$$abcdefgh$" HASH43, "parameters" },
	{ "$y$j9$abcdefgh$" HASH43, "parameters" },
	{ "$y$j9T/$abcdefgh$" HASH43, "parameters" },
	{ "$y$z9T$abcdefgh$" HASH43, "parameters" },
	{ "$y$jFT$abcdefgh$" HASH43, "256 MiB" },
	{ "$y$jhT$abcdefgh$" HASH43, "256 MiB" },
	{ "$6$salt$" HASH43, "SHA-crypt" },
	{ "$5$salt$" HASH86, "SHA-crypt" },
	{ "$6$12345678901234567$" HASH86, "SHA-crypt" },
	{ "$6$sa lt$" HASH86, "SHA-crypt" },
	{ "$6$salt$" HASH86 "\t", "SHA-crypt" },
	{ "$6$sa:lt$" HASH86, "SHA-crypt" },
	{ "$6$s\xc3\xa4lt$" HASH86, "SHA-crypt" },
	{ "$5$salt${GtNWOhRGZnKoBtYE32zqkvELca4sCrFfPsb04Yn1xC", "SHA-crypt" },
	{ "$6$rounds=1000", "rounds" },
	{ "$6$rounds=999$salt$" HASH86, "rounds" },
	{ "$6$rounds=01000$salt$" HASH86, "rounds" },
	{ "$6$rounds=x$salt$" HASH86, "rounds" },
	{ "$6$rounds=1000000000$salt$" HASH86, "rounds" },
	{ "$6$rounds=20000001$salt$" HASH86, "longer" },
	{ "$1$$HTZAXD/gY7P8c9fP0V1lx1", "MD5" },
	{ "$1$abcdefghi$HTZAXD/gY7P8c9fP0V1lx1", "MD5" },
	{ "$apr1$dklnFclS$Oya50ZBWDOdN2HJ8TOsPa", "MD5" },
	{ "$apr1$dklnFclS", "MD5" },
	{ "$apr1$dklnFclS$Oya50ZBWDOdN2HJ8TOsPa~", "MD5" },
	{ "{SHA}hQ/ZuWUAEW6FZd0isN3mdFBgW1A", "{SHA}" },
	{ "{SHA}hQ/ZuWUAEW6FZd0isN3mdFBgW1AA", "{SHA}" },
	{ "{SHA}hQ/ZuWUAEW6FZd0isN3mdFBg.1A=", "{SHA}" },
	{ "{SHA}hQ/ZuWUAEW6FZd0isN3mdFBg-1A=", "{SHA}" },
};

Test(hash, refused)
{
	for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
		struct user user = { 0 };
		const char *fault = hash_recognise(slice_of(wrongs[i].text), &user);

		cr_assert_not_null(fault, "%s", wrongs[i].text);
		cr_expect_not_null(strstr(fault, wrongs[i].says), "%s: %s", wrongs[i].text, fault);
		cr_expect_not_null(strstr(fault, "adit passwd"), "the remedy is not named: %s", fault);
	}
}

Test(hash, made_lines_are_read_back)
{
	static const enum hash_kind kinds[] = { HASH_BCRYPT, HASH_YESCRYPT, HASH_SHA512 };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		char one[512], two[512];
		struct user user;

		cr_assert(hash_make(kinds[i], SECRET, one));
		cr_assert(hash_make(kinds[i], SECRET, two));
		cr_expect_str_neq(one, two, "salted");
		user = user_of(one);
		cr_expect_eq(user.kind, kinds[i]);
		cr_expect(hash_verify(&user, SECRET, strlen(SECRET)));
		cr_expect_not(hash_verify(&user, "other", 5));
		cr_expect_gt(hash_cost_ms(&user), 0);
	}
	char line[512];
	cr_expect_not(hash_make(HASH_SHA1, SECRET, line));
}

/* Whichever call fails: no verdict. One that "right" could come of would be a way in, and one that "wrong" could come of
 * would be remembered. */
Test(hash, a_failing_library_is_no_verdict)
{
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		const struct vector *v = &vectors[i];
		struct user user = user_of(v->hash);
		bool hit = true;

		/* $apr1$ makes some thousands of calls, of which every kind is among the first */
		for (unsigned long nth = 1; hit; nth += nth < 300 ? 1 : 1999) {
			enum hash_verdict verdict;

			failing_set(NULL, nth, ENOMEM);
			verdict = hash_check(&user, v->password, strlen(v->password));
			hit = failing_hit();
			failing_set(NULL, 0, 0);
			cr_expect_eq(verdict, hit ? HASH_FAILED : HASH_RIGHT, "%s, call %lu", v->hash, nth);
		}
	}
}

Test(hash, a_failing_library_makes_no_line)
{
	bool hit = true;

	for (unsigned long nth = 1; hit; nth++) {
		char line[512];
		bool made;

		failing_set(NULL, nth, ENOMEM);
		made = hash_make(HASH_BCRYPT, SECRET, line);
		hit = failing_hit();
		failing_set(NULL, 0, 0);
		cr_expect_neq(made, hit, "call %lu", nth);
	}
}

Test(hash, what_the_library_was_built_without_is_refused)
{
	struct user user = { 0 };
	const char *fault;

	failing_set("crypt_checksalt", 1, 0);
	fault = hash_recognise(slice_of(vectors[0].hash), &user);
	failing_set(NULL, 0, 0);
	cr_assert_not_null(fault);
	cr_expect_not_null(strstr(fault, "libcrypt"), "%s", fault);
}

Test(hash, names)
{
	cr_expect_str_eq(hash_kind_name(HASH_BCRYPT), "bcrypt");
	cr_expect_str_eq(hash_kind_name(HASH_YESCRYPT), "yescrypt");
	cr_expect_str_eq(hash_kind_name(HASH_APR1), "apr1");
	cr_expect_str_eq(hash_kind_name(HASH_SHA1), "sha1");
}
