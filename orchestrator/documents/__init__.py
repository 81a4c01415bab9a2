"""Documents generated from the code: AsyncAPI, TypeScript types, diagrams, and an overview page."""
