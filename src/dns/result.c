/* A bounded list of addresses without repetition. */
#include "dns/dns_priv.h"

bool dns_result_add(struct dns_result *result, const struct addr *address)
{
	for (size_t i = 0; i < result->count; i++)
		if (addr_same_host(&result->addr[i], address))
			return true;
	if (result->count == DNS_ADDRESSES_MAX)
		return false;
	result->addr[result->count] = *address;
	addr_set_port(&result->addr[result->count], 0);
	result->count++;
	return true;
}

bool dns_result_add_bytes(struct dns_result *result, const uint8_t bytes[static 16])
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	struct addr address;

	memcpy(&in6.sin6_addr, bytes, sizeof(in6.sin6_addr));
	/* Turns the mapped form back into IPv4. */
	ADIT_ASSERT(addr_from_sockaddr(&address, (const struct sockaddr *)&in6, sizeof(in6)));
	return dns_result_add(result, &address);
}
