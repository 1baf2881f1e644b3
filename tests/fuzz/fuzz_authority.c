/* Any bytes as host, host:port, address and block: what is taken has one spelling, which reads back as the same, and no
 * name can be taken for an address by somebody else's reader. */
#include "adit/base/authority.h"
#include "adit/base/obj.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_address(const struct addr *a)
{
	static const uint8_t MAPPED[12] = { [10] = 0xff, [11] = 0xff };
	char text[ADDR_TEXT_SIZE], again_text[ADDR_TEXT_SIZE];
	uint8_t bytes[16];
	struct addr again;
	struct cidr prefix;

	addr_bytes(a, bytes);
	ADIT_ASSERT((a->sa.sa_family == AF_INET) == (memcmp(bytes, MAPPED, sizeof(MAPPED)) == 0));
	ADIT_ASSERT(addr_from_literal(&again, slice_of(addr_host_text(a, text)), addr_port(a)));
	ADIT_ASSERT(addr_equal(a, &again));
	ADIT_ASSERT(strcmp(text, addr_host_text(&again, again_text)) == 0);
	ADIT_ASSERT(addr_from_sockaddr(&again, &a->sa, a->len) && addr_equal(a, &again));
	ADIT_ASSERT(addr_parse(&again, slice_of(addr_text(a, text))) && addr_equal(a, &again));
	prefix = addr_prefix(a, 24, 48);
	ADIT_ASSERT(cidr_contains(&prefix, a));
}

static void check_host(const struct host *host)
{
	size_t n = strlen(host->text);
	struct host again;
	struct in_addr in;
	struct in6_addr in6;

	ADIT_ASSERT(n > 0 && n <= HOST_TEXT_MAX);
	for (size_t i = 0; i < n; i++)
		ADIT_ASSERT(strchr("abcdefghijklmnopqrstuvwxyz0123456789-_.:", host->text[i]) != NULL);
	if (host->kind == HOST_IS_ADDRESS) {
		ADIT_ASSERT(addr_port(&host->addr) == 0);
		check_address(&host->addr);
		return;
	}
	ADIT_ASSERT(host->addr.len == 0 && !strchr(host->text, ':') && host->text[n - 1] != '.');
	ADIT_ASSERT(inet_aton(host->text, &in) == 0 && inet_pton(AF_INET6, host->text, &in6) != 1);
	ADIT_ASSERT(host_parse(slice_of(host->text), &again) == REASON_OK && again.kind == HOST_IS_NAME);
	ADIT_ASSERT(strcmp(host->text, again.text) == 0);
}

static void check_authority(const struct authority *a)
{
	char text[HOST_TEXT_MAX + 16];
	struct authority again;
	bool brackets = strchr(a->host.text, ':') != NULL;

	ADIT_ASSERT(a->port > 0);
	check_host(&a->host);
	snprintf(text, sizeof(text), "%s%s%s:%u", brackets ? "[" : "", a->host.text, brackets ? "]" : "", a->port);
	ADIT_ASSERT(authority_parse(slice_of(text), &again) == REASON_OK);
	ADIT_ASSERT(again.port == a->port && strcmp(again.host.text, a->host.text) == 0);
}

static void check_block(const struct cidr *c)
{
	static const struct cidr ALL4 = { { [10] = 0xff, [11] = 0xff }, 96 }, ALL6 = { { 0 }, 0 };
	char text[ADDR_TEXT_SIZE];
	struct cidr again;

	ADIT_ASSERT(cidr_parse(&again, slice_of(cidr_text(c, text)), NULL));
	ADIT_ASSERT(again.bits == c->bits && memcmp(again.bytes, c->bytes, sizeof(c->bytes)) == 0);
	ADIT_ASSERT(cidr_within(c, c) && cidr_within(c, &ALL4) != cidr_within(c, &ALL6));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *copy = malloc(size ? size : 1);
	struct slice text = { copy, size };
	struct host host;
	struct authority authority;
	struct addr addr;
	struct cidr block;
	bool host_bits, strict;

	if (!copy)
		abort();
	if (size > 0)
		memcpy(copy, data, size);
	if (host_parse(text, &host) == REASON_OK)
		check_host(&host);
	strict = authority_parse(text, &authority) == REASON_OK;
	if (strict)
		check_authority(&authority);
	if (authority_parse_default(text, 80, &authority) == REASON_OK)
		check_authority(&authority);
	else
		ADIT_ASSERT(!strict);
	if (addr_from_literal(&addr, text, 9))
		check_address(&addr);
	if (addr_parse(&addr, text))
		check_address(&addr);
	if (cidr_parse(&block, text, &host_bits))
		check_block(&block);
	free(copy);
	return 0;
}
