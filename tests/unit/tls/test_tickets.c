/* The ring of ticket keys by itself, and resumption over workers, reloads, nodes and time. */
#include "tls/tickets_priv.h"

#include "adit/base/mem.h"
#include "adit/tls/context.h"
#include "unit/tls/pki.h"

#include <criterion/criterion.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

TestSuite(tls_tickets, .init = pki_setup, .fini = pki_teardown);

enum { LIFETIME_S = 3600, EPOCH_S = LIFETIME_S / 2 };

static int64_t now;

static int64_t clock_of_test(void)
{
	return now;
}

static struct tls_tickets *ring(const char *secret)
{
	char path[PKI_PATH_SIZE], error[256] = "";
	struct tls_tickets *t = tls_tickets_new(secret ? pki_path(path, secret) : NULL, LIFETIME_S * 1000, error, sizeof error);

	cr_assert_not_null(t, "%s", error);
	return t;
}

static struct tls_tickets *ring_at(const char *secret, int64_t at)
{
	struct tls_tickets *t = ring(secret);

	now = at;
	tickets_set_clock(t, clock_of_test);
	tls_tickets_rotate(t);
	return t;
}

static void write_secret(const char *name, char byte)
{
	char secret[33];

	memset(secret, byte, sizeof secret);
	secret[32] = '\n';
	pki_write(name, secret, sizeof secret);
}

/* --- the ring --- */

Test(tls_tickets, key_is_taken_until_its_last_ticket_expires)
{
	struct tls_tickets *t = ring_at(NULL, 100 * EPOCH_S);
	struct ticket_key key, other;

	cr_assert(tickets_current(t, &key));
	cr_expect_eq(tickets_find(t, key.name, &other), TICKET_CURRENT);
	cr_expect_arr_eq(&key, &other, sizeof key);
	now += EPOCH_S - 1; /* the last second in which it issues */
	cr_assert(tickets_current(t, &other));
	cr_expect_arr_eq(&key, &other, sizeof key);
	now += 1;
	cr_assert(tickets_current(t, &other));
	cr_expect_arr_neq(&key, &other, sizeof key);
	cr_expect_arr_neq(key.name, other.name, sizeof key.name);
	cr_expect_arr_neq(key.aes, other.aes, sizeof key.aes);
	cr_expect_arr_neq(key.mac, other.mac, sizeof key.mac);
	cr_expect_eq(tickets_find(t, key.name, &other), TICKET_OLD);
	now += LIFETIME_S - 2; /* its youngest ticket has a second left */
	cr_expect_eq(tickets_find(t, key.name, &other), TICKET_OLD);
	cr_expect_arr_eq(&key, &other, sizeof key);
	now += 2;
	cr_expect_eq(tickets_find(t, key.name, &other), TICKET_UNKNOWN);
	tls_tickets_unref(t);
}

Test(tls_tickets, keys_are_wiped_when_nobody_asks)
{
	struct tls_tickets *t = ring_at(NULL, 100 * EPOCH_S);
	struct ticket_key key, other;

	cr_assert(tickets_current(t, &key));
	now += 1000 * EPOCH_S;
	tls_tickets_rotate(t);
	cr_expect_eq(tickets_find(t, key.name, &other), TICKET_UNKNOWN);
	now -= 1000 * EPOCH_S; /* not even when the clock goes back */
	cr_expect_eq(tickets_find(t, key.name, &other), TICKET_UNKNOWN);
	tls_tickets_unref(t);
}

Test(tls_tickets, many_epochs)
{
	struct tls_tickets *t = ring_at(NULL, 100 * EPOCH_S);
	struct ticket_key keys[40], other;

	for (int i = 0; i < 40; i++) {
		cr_assert(tickets_current(t, &keys[i]));
		for (int k = 0; k <= i; k++)
			cr_expect_eq(tickets_find(t, keys[k].name, &other), k == i ? TICKET_CURRENT : k + 2 >= i ? TICKET_OLD : TICKET_UNKNOWN,
				"%d in %d", k, i);
		now += EPOCH_S;
	}
	tls_tickets_unref(t);
}

Test(tls_tickets, nodes_share_a_secret)
{
	struct tls_tickets *a, *b, *stranger;
	struct ticket_key key, other;

	write_secret("secret", 's');
	write_secret("another", 'a');
	a = ring_at("secret", 100 * EPOCH_S);
	b = ring_at("secret", 100 * EPOCH_S);
	stranger = ring_at("another", 100 * EPOCH_S);
	for (int i = 0; i < 10; i++) {
		cr_assert(tickets_current(a, &key));
		cr_expect_eq(tickets_find(b, key.name, &other), TICKET_CURRENT);
		cr_expect_arr_eq(&key, &other, sizeof key);
		cr_expect_eq(tickets_find(stranger, key.name, &other), TICKET_UNKNOWN);
		now += EPOCH_S;
	}
	/* b's clock is up to an epoch behind: it knows the key that comes next */
	cr_assert(tickets_current(a, &key));
	now -= EPOCH_S;
	tls_tickets_rotate(b);
	cr_expect_eq(tickets_find(b, key.name, &other), TICKET_OLD);
	/* and a node that starts later knows those of before */
	tls_tickets_unref(b);
	b = ring_at("secret", now + 3 * EPOCH_S);
	cr_expect_eq(tickets_find(b, key.name, &other), TICKET_OLD);
	cr_expect_arr_eq(&key, &other, sizeof key);
	tls_tickets_unref(a);
	tls_tickets_unref(b);
	tls_tickets_unref(stranger);
}

Test(tls_tickets, white_space_at_the_end_of_a_secret_does_not_matter)
{
	static const char *const texts[] = { "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef\n",
		"0123456789abcdef0123456789abcdef \r\n\n" };
	struct ticket_key first, key;

	for (size_t i = 0; i < 3; i++) {
		struct tls_tickets *t;

		pki_write("secret", texts[i], strlen(texts[i]));
		t = ring_at("secret", 5 * EPOCH_S);
		cr_assert(tickets_current(t, i ? &key : &first));
		if (i > 0)
			cr_expect_arr_eq(&first, &key, sizeof key);
		tls_tickets_unref(t);
	}
}

Test(tls_tickets, bad_secrets_are_refused_in_words)
{
	static const struct {
		size_t n; /* 0: no file */
		const char *word;
	} rows[] = { { 0, "No such file" }, { 31, "at least 32 bytes" }, { 4097, "larger than 4096" } };
	static char bytes[5000];

	memset(bytes, 'x', sizeof bytes);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char path[PKI_PATH_SIZE], error[256] = "";

		pki_path(path, "secret");
		if (rows[i].n > 0)
			pki_write("secret", bytes, rows[i].n);
		cr_expect_null(tls_tickets_new(path, 1000, error, sizeof error));
		cr_expect_not_null(strstr(error, rows[i].word), "%s", error);
		cr_expect_not_null(strstr(error, path), "%s", error);
	}
}

Test(tls_tickets, reload)
{
	char path[PKI_PATH_SIZE], error[256] = "";
	struct tls_tickets *t;
	struct ticket_key first, second, third, key;

	write_secret("secret", 's');
	pki_path(path, "secret");
	t = ring_at(NULL, 100 * EPOCH_S);
	cr_assert(tickets_current(t, &first));
	cr_assert(tls_tickets_reload(t, NULL, LIFETIME_S * 1000, error, sizeof error)); /* nothing new */
	cr_assert(tickets_current(t, &key));
	cr_expect_arr_eq(&first, &key, sizeof key);

	cr_assert(tls_tickets_reload(t, path, LIFETIME_S * 1000, error, sizeof error)); /* a secret from now on */
	cr_assert(tickets_current(t, &second));
	cr_expect_arr_neq(first.name, second.name, sizeof first.name);
	cr_expect_eq(tickets_find(t, first.name, &key), TICKET_OLD);
	cr_assert(tls_tickets_reload(t, path, LIFETIME_S * 1000, error, sizeof error)); /* the same again */
	cr_assert(tickets_current(t, &key));
	cr_expect_arr_eq(&second, &key, sizeof key);

	write_secret("secret", 'n');
	cr_assert(tls_tickets_reload(t, path, LIFETIME_S * 1000, error, sizeof error)); /* another secret */
	cr_assert(tickets_current(t, &third));
	cr_expect_arr_neq(second.name, third.name, sizeof second.name);
	cr_expect_eq(tickets_find(t, second.name, &key), TICKET_OLD);
	cr_expect_eq(tickets_find(t, first.name, &key), TICKET_OLD);

	pki_write("secret", "short", 5);
	cr_expect_not(tls_tickets_reload(t, path, LIFETIME_S * 1000, error, sizeof error));
	cr_assert(tickets_current(t, &key));
	cr_expect_arr_eq(&third, &key, sizeof key);

	now += 2 * LIFETIME_S;
	cr_expect_eq(tickets_find(t, first.name, &key), TICKET_UNKNOWN);
	cr_expect_eq(tickets_find(t, second.name, &key), TICKET_UNKNOWN);

	cr_assert(tls_tickets_reload(t, NULL, 0, error, sizeof error)); /* contexts of before may still issue */
	cr_expect(tickets_current(t, &key));
	tls_tickets_unref(t);
}

Test(tls_tickets, out_of_memory)
{
	char path[PKI_PATH_SIZE], error[256];
	struct tls_tickets *t = NULL;

	write_secret("secret", 's');
	pki_path(path, "secret");
	for (unsigned long n = 1; t == NULL; n++) {
		error[0] = '\0';
		mem_fault_set(n, false);
		t = tls_tickets_new(path, 1000, error, sizeof error);
		cr_assert(mem_fault_hit() || t != NULL);
		mem_fault_set(0, false);
		cr_expect(t != NULL || error[0] != '\0');
	}
	tls_tickets_unref(t);
}

static void *hammer(void *arg)
{
	struct tls_tickets *t = arg;

	for (int i = 0; i < 20000; i++) {
		struct ticket_key key, found;

		if (!tickets_current(t, &key) || tickets_find(t, key.name, &found) == TICKET_UNKNOWN ||
			memcmp(&key, &found, sizeof key) != 0)
			return arg;
	}
	return NULL;
}

Test(tls_tickets, threads)
{
	char path[PKI_PATH_SIZE], error[256];
	struct tls_tickets *t = ring(NULL);
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, hammer, t), 0);
	pki_path(path, "secret");
	for (int i = 0; i < 8; i++) {
		write_secret("secret", (char)('a' + i % 2));
		cr_expect(tls_tickets_reload(t, path, LIFETIME_S * 1000, error, sizeof error));
	}
	for (int i = 0; i < 4; i++) {
		void *failed;

		cr_assert_eq(pthread_join(threads[i], &failed), 0);
		cr_expect_null(failed);
	}
	tls_tickets_unref(t);
}

/* --- handshakes --- */

static struct tls_context *context_of(struct tls_tickets *tickets, unsigned lifetime_ms)
{
	char chain[2][PKI_PATH_SIZE], key[2][PKI_PATH_SIZE];
	struct conf_certificate certificates[] = {
		{ (char *)(uintptr_t)pki_path(chain[0], "a.crt"), (char *)(uintptr_t)pki_path(key[0], "a.key"), { 0, 0 } },
		{ (char *)(uintptr_t)pki_path(chain[1], "b.crt"), (char *)(uintptr_t)pki_path(key[1], "b.key"), { 0, 0 } },
	};
	struct conf conf = { .tls = { .certificates = certificates, .certificate_count = 2,
		.ticket_lifetime_ms = lifetime_ms } };
	struct conf_errors errors = { 0 };
	struct tls_context *c = tls_context_new(&conf, NULL, tickets, &errors);

	cr_assert_not_null(c, "%s", errors.count ? errors.text[0] : "");
	return c;
}

static struct tls_context *context(struct tls_tickets *tickets)
{
	return context_of(tickets, LIFETIME_S * 1000);
}

static void make_certificates(void)
{
	pki_make("a", "P-256", "DNS:a.test");
	pki_make("b", "P-256", "DNS:b.test");
}

/* One full handshake on `from`, then its ticket on `to`. */
static void expect_resumed(struct tls_context *from, struct tls_context *to, int version, const char *sni,
	const char *again, bool expected)
{
	struct shake first = { .version = version, .sni = sni }, second = { .version = version, .sni = again };

	shake_hands(tls_context_ssl(from, NULL, TLS_HTTP2_FIRST), &first);
	cr_assert(first.ok);
	cr_expect_not(first.resumed);
	cr_expect_eq(first.tickets, 1);
	second.session = first.got;
	shake_hands(tls_context_ssl(to, NULL, TLS_HTTP2_FIRST), &second);
	cr_assert(second.ok);
	cr_expect_eq(second.resumed, expected, "TLS %x", version);
	cr_expect_str_eq(second.server_saw_sni, again ? again : "");
	/* a fresh ticket: always in TLS 1.3, in TLS 1.2 with a full handshake only */
	cr_expect_eq(second.tickets, version == TLS1_3_VERSION || !expected, "TLS %x: %d", version, second.tickets);
	shake_drop(&first);
	shake_drop(&second);
	cr_expect_eq(ERR_peek_error(), 0);
}

Test(tls_tickets, resumed_on_another_worker_and_after_a_reload)
{
	struct tls_tickets *tickets = ring(NULL), *strange = ring(NULL);
	struct tls_context *one, *two, *later, *other;

	make_certificates();
	one = context(tickets);
	two = tls_context_clone(one);
	later = context(tickets);
	other = context(strange);
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		static const char *const names[] = { NULL, "a.test", "b.test", "unknown.test" };

		for (size_t i = 0; i < 4; i++) {
			expect_resumed(one, one, version, names[i], names[i], true);
			expect_resumed(one, two, version, names[i], names[i], true);
			expect_resumed(two, later, version, names[i], names[i], true);
			expect_resumed(one, other, version, names[i], names[i], false);
		}
	}
	tls_context_unref(one);
	tls_context_unref(two);
	tls_context_unref(later);
	tls_context_unref(other);
	tls_tickets_unref(tickets);
	tls_tickets_unref(strange);
}

Test(tls_tickets, resumed_on_another_node)
{
	struct tls_tickets *here, *there;
	struct tls_context *a, *b;

	make_certificates();
	write_secret("secret", 's');
	here = ring("secret");
	there = ring("secret");
	a = context(here);
	b = context(there);
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++)
		expect_resumed(a, b, version, "b.test", "b.test", true);
	tls_context_unref(a);
	tls_context_unref(b);
	tls_tickets_unref(here);
	tls_tickets_unref(there);
}

/* Tickets of the epoch before still count, and TLS 1.2 clients get a new one then. */
Test(tls_tickets, resumed_after_rotation)
{
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		for (int epochs = 0; epochs <= 3; epochs++) {
			struct tls_tickets *tickets = ring_at(NULL, 100 * EPOCH_S);
			struct shake first = { .version = version }, second = { .version = version };
			struct tls_context *c;

			make_certificates();
			c = context(tickets);
			shake_hands(tls_context_ssl(c, NULL, TLS_HTTP2_FIRST), &first);
			cr_assert(first.ok);
			now += epochs * EPOCH_S;
			second.session = first.got;
			shake_hands(tls_context_ssl(c, NULL, TLS_HTTP2_FIRST), &second);
			cr_assert(second.ok);
			cr_expect_eq(second.resumed, epochs <= 2, "TLS %x, %d epochs", version, epochs);
			cr_expect_eq(second.tickets, version == TLS1_3_VERSION || epochs > 0);
			shake_drop(&first);
			shake_drop(&second);
			tls_context_unref(c);
			tls_tickets_unref(tickets);
		}
	}
}

/* Every ticket that is not ours, or not whole, ends in a full handshake. */
Test(tls_tickets, damaged_tickets)
{
	struct tls_tickets *tickets = ring(NULL);
	struct tls_context *c;

	make_certificates();
	c = context(tickets);
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		struct shake first = { .version = version };
		unsigned char *der = NULL;
		const unsigned char *ticket;
		size_t ticket_n, at = 0;
		int n;

		shake_hands(tls_context_ssl(c, NULL, TLS_HTTP2_FIRST), &first);
		cr_assert(first.ok);
		SSL_SESSION_get0_ticket(first.got, &ticket, &ticket_n);
		n = i2d_SSL_SESSION(first.got, &der);
		cr_assert_gt(n, 0);
		while (at + ticket_n < (size_t)n && memcmp(der + at, ticket, ticket_n) != 0)
			at++;
		cr_assert_lt(at + ticket_n, (size_t)n);
		for (size_t i = 0; i < ticket_n; i++) {
			struct shake second = { .version = version };
			const unsigned char *p = der;

			der[at + i] ^= 0x40;
			second.session = d2i_SSL_SESSION(NULL, &p, n);
			cr_assert_not_null(second.session);
			shake_hands(tls_context_ssl(c, NULL, TLS_HTTP2_FIRST), &second);
			cr_expect(second.ok, "TLS %x, byte %zu", version, i);
			cr_expect_not(second.resumed, "TLS %x, byte %zu", version, i);
			SSL_SESSION_free(second.session);
			shake_drop(&second);
			der[at + i] ^= 0x40;
		}
		OPENSSL_free(der);
		shake_drop(&first);
	}
	tls_context_unref(c);
	tls_tickets_unref(tickets);
}

Test(tls_tickets, none_at_lifetime_zero)
{
	char error[256];
	struct tls_tickets *tickets = tls_tickets_new(NULL, 0, error, sizeof error);
	struct tls_context *c;

	cr_assert_not_null(tickets);
	make_certificates();
	c = context_of(tickets, 0);
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		struct shake s = { .version = version };

		shake_hands(tls_context_ssl(c, NULL, TLS_HTTP2_FIRST), &s);
		cr_expect(s.ok);
		cr_expect_eq(s.tickets, 0, "TLS %x", version);
		shake_drop(&s);
	}
	tls_context_unref(c);
	tls_tickets_unref(tickets);
}
