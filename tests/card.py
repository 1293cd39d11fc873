"""A pretended card: tensors that say they are on CUDA, and refuse what a card refuses, on a machine that has none.

    card.insert()      # from here on, in this thread

The numbers are the CPU's own, and no speed can be learnt. What shows is whether all tensors of a computation are where they should
be: an operation on tensors of both kinds fails as on a card, and so does numpy() of a tensor that is not fetched first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
TENSOR = torch.Tensor
PLAIN = {TENSOR.to, TENSOR.cpu, TENSOR.cuda, TENSOR.copy_, TENSOR.type, torch.is_tensor,
         torch._has_compatible_shallow_copy_type}  # what may see both kinds, or moves them
FETCHES = {TENSOR.numpy, TENSOR.__array__}
# Methods and functions of one tensor that tell something, and make no tensor.
TELL = {TENSOR.item, TENSOR.tolist, TENSOR.__float__, TENSOR.__int__, TENSOR.__bool__, TENSOR.__index__, TENSOR.__len__, TENSOR.__repr__,
        TENSOR.__format__}


def on_card(x: torch.Tensor) -> bool:
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.__dict__.get("on_card", False)


def mark(x, here: bool):
    """Marks the tensors in an answer."""
    if isinstance(x, torch.Tensor):
        while torch._C._functorch.is_functorch_wrapped_tensor(x):
            x = torch._C._functorch.get_unwrapped(x)
        x.__dict__["on_card"] = here
    elif isinstance(x, (tuple, list)):
        for part in x:
            mark(part, here)
    elif isinstance(x, dict):
        mark(list(x.values()), here)
    return x


def tensors(x):
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from tensors(part)
    elif isinstance(x, dict):
        yield from tensors(list(x.values()))


def asked(device) -> bool | None:
    """Whether an argument asks for the card; None where it asks for nothing."""
    if isinstance(device, str):
        try:
            device = torch.device(device)
        except RuntimeError:
            return None
    return device.type == "cuda" if isinstance(device, torch.device) else None


class Generator(torch.Generator):
    """A stream on the card, or on the CPU."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.on_card = bool(asked(device))
        return self

    device = property(lambda self: CUDA if self.on_card else CPU)


class Card(TorchFunctionMode):
    """Sees every call of torch from Python, and keeps account of who is where."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        told = getattr(func, "__self__", None)
        if told in TOLD and func.__name__ == "__get__":
            return TOLD[told](on_card(args[0]))
        if func is TENSOR.get_device:
            return 0 if on_card(args[0]) else -1
        if told is TENSOR.data and func.__name__ == "__set__":
            func(*args, **kwargs)
            mark(args[0], on_card(args[1]))
            return None
        given = list(tensors([args, kwargs]))
        here = any(map(on_card, given))
        if func in FETCHES and here:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")
        if func in (TENSOR.cpu, TENSOR.cuda):
            wanted = func is TENSOR.cuda
            return args[0] if on_card(args[0]) == wanted else mark(args[0].clone(), wanted)
        if func is TENSOR.to:
            return self.moved(*args, **kwargs)
        stream = kwargs.get("generator")
        wanted = asked(kwargs.get("device")) if func is not torch._C._nn._parse_to else None
        if wanted is not None:
            kwargs["device"] = CPU
            if func in (torch.as_tensor, torch.asarray) and given and here != wanted:
                return mark(args[0].clone(), wanted)
            here = wanted
        elif func not in PLAIN:
            self.refuse_both(func, args, kwargs, given)
        if isinstance(stream, Generator) and (given or wanted is not None or func in FACTORIES) and stream.on_card != here:
            raise RuntimeError(f"Expected a '{CUDA if here else CPU}' device type for generator but found '{stream.device}'")
        if func is torch.tensor and wanted is None:  # numbers from the card come to the CPU, a tensor stays where it is
            here = isinstance(args[0], torch.Tensor) and on_card(args[0])
        if func in (TENSOR.copy_, TENSOR.type):
            here = on_card(args[0])
        answer = func(*args, **kwargs)
        return answer if func in TELL else mark(answer, here)

    @staticmethod
    def moved(x, *args, **kwargs):
        """x.to(device, dtype), x.to(other), ..."""
        values = [*args, *kwargs.values()]
        place = next((value for value in values if isinstance(value, (str, torch.device))), None)
        other = next((value for value in values if isinstance(value, torch.Tensor)), None)
        dtype = next((value for value in values if isinstance(value, torch.dtype)), x.dtype if other is None else other.dtype)
        wanted = on_card(x if other is None else other) if place is None else asked(place)
        answer = TENSOR.to(x, dtype)
        if on_card(x) != wanted and answer is x:
            answer = x.clone()
        return answer if answer is x else mark(answer, wanted)

    @staticmethod
    def refuse_both(func, args, kwargs, given) -> None:
        """Raises where tensors of both kinds meet; single numbers may come from the CPU, and so may indices."""
        large = [x for x in given if x.ndim]
        if func is TENSOR.__getitem__ and on_card(args[0]):
            return
        if func is TENSOR.__setitem__:
            index = any(x.ndim for x in tensors(args[1]))
            if not index or (on_card(args[0]) and not isinstance(args[2], torch.Tensor)):
                return
            large = [x for x in tensors([args[0], args[2]]) if x.ndim]
        if func in (torch.stack, torch.cat, torch.hstack, torch.vstack):
            large = given
        if len({on_card(x) for x in large}) > 1 or (len(large) and not on_card(large[0]) and any(map(on_card, given))):
            found = [(tuple(x.shape), "cuda" if on_card(x) else "cpu") for x in given]
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (when "
                               f"checking arguments of {getattr(func, '__name__', func)}, {found})")


# What a tensor tells of where it is.
TOLD = {TENSOR.device: lambda here: CUDA if here else CPU, TENSOR.is_cuda: lambda here: here, TENSOR.is_cpu: lambda here: not here}
FACTORIES = {getattr(torch, name) for name in ("rand", "randn", "randint", "randperm")}


def carried(transform):
    """A transform of `torch.func` whose function's answers are where its arguments are."""
    def of(function, *how, **named):
        done = transform(function, *how, **named)
        return lambda *args, **more: mark(done(*args, **more), any(map(on_card, tensors([args, more]))))
    return of


def insert() -> Card:
    """Pretends that there is a card, until the process ends."""
    torch.Generator = Generator
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.current_device = lambda: 0
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.get_rng_state = lambda device=None: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, device=None: None
    torch.cuda.get_device_name = lambda device=None: "no card at all"
    make = TENSOR._make_subclass

    def make_subclass(cls: type[Any], data: torch.Tensor, requires_grad: bool = False, **kwargs: Any) -> Any:
        return mark(make(cls, data, requires_grad, **kwargs), on_card(data))

    TENSOR._make_subclass = staticmethod(make_subclass)  # parameters
    for name in ("jacrev", "jacfwd", "hessian", "grad", "vmap"):  # their answers are wrapped in C++
        setattr(torch.func, name, carried(getattr(torch.func, name)))
    card = Card()
    card.__enter__()
    return card
