/* Any driver against virtio-rng: every head comes back once. */
#include <stdlib.h>

#include "devices/virtio/types.h"
#include "tests/driver/device.h"
#include "vmm/log.h"

enum { QUEUE = 32 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const uint64_t rings[] = { 0, VD_F_PACKED, VD_F_INDIRECT | VD_F_EVENT_IDX,
		VD_F_PACKED | VD_F_IN_ORDER };
	struct rig *r;

	log_level = LOG_ERROR;
	if (len < 2)
		return 0;
	r = rig_new(&virtio_rng_type, "", NULL);
	if (!r)
		abort();
	rig_start(r, 0, QUEUE, rings[data[0] & 3]);
	rig_fuzz(r, 0, data + 1, len - 1);
	rig_free(r);
	return 0;
}
