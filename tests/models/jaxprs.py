"""What a traced function consists of, for tests that look at dtypes and shapes inside."""

import jax


def equations(function, *args):
    """Returns all equations of a function, those of its loops and inner functions included."""

    def inside(jaxpr):
        found = []
        for equation in jaxpr.eqns:
            found.append(equation)
            for inner in jax.core.jaxprs_in_params(equation.params):
                found += inside(inner)
        return found

    return inside(jax.make_jaxpr(function)(*args).jaxpr)


def named(found, *names):
    """Picks equations by the name of their primitive."""
    return [equation for equation in found if equation.primitive.name in names]
