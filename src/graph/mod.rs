//! Recording and running: tape, parameters, the trait of an op, and the plan.
