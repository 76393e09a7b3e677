"""Image sources of a shoebox room: where they are, and what the walls leave of them.

The images form a lattice, so places and gains are made per axis and put together for those within reach alone: many
times faster than going through all images of an order.

Source: Allen & Berkley 1979.
"""

import math

import numpy as np
from numpy.typing import NDArray

from salm.scenes.rooms import Room


def image_sources(
    room: Room, source_m: NDArray[np.float64], receiver_m: NDArray[np.float64], reach_m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All images within reach of the receiver, and always the source itself.

    Args:
        source_m, receiver_m: (3,), inside the room.
        reach_m: largest distance from the receiver.

    Returns:
        Vectors from the receiver to the images in metres (images, 3), the source first, and what the walls leave of
        their amplitudes (images, 7) in each octave band; (images, 1) where all walls treat all bands alike.
    """
    reflection = np.sqrt(1.0 - np.asarray(room.absorption))  # (6 walls, bands)
    if np.all(reflection == reflection[:, :1]):
        reflection = reflection[:, :1]
    places, gains = [], []
    for axis, size in enumerate(room.dimensions_m):
        count = math.ceil(reach_m / size) + 1
        number = np.arange(-count, count + 1)  # of the mirrored room: 0 is the room, 1 the one behind the far wall
        image = np.where(number % 2 == 0, number * size + source_m[axis], (number + 1) * size - source_m[axis])
        hits_far, hits_near = np.abs((number + 1) // 2), np.abs(number // 2)
        near, far = reflection[2 * axis], reflection[2 * axis + 1]
        places.append(image - receiver_m[axis])
        gains.append(near ** hits_near[:, None] * far ** hits_far[:, None])
    x, y, z = (place**2 for place in places)
    chosen = x[:, None, None] + y[:, None] + z <= reach_m**2
    chosen[tuple(len(place) // 2 for place in places)] = False  # the source itself comes first
    indices = [np.append(len(place) // 2, index) for place, index in zip(places, np.nonzero(chosen), strict=True)]
    vectors = np.stack([place[index] for place, index in zip(places, indices, strict=True)], axis=1)
    of_x, of_y, of_z = (gain[index] for gain, index in zip(gains, indices, strict=True))
    return vectors, of_x * of_y * of_z
